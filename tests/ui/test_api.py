"""Every endpoint, asked over HTTP on a loopback port, on the embedded checkpoint."""

import io
import json
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs the extra `app`")
from sam_hf.masks import rle  # noqa: E402


@pytest.fixture(scope="module")
def disc_mask():
    rows, columns = np.mgrid[:120, :160]
    return (columns - 60) ** 2 + (rows - 50) ** 2 <= 30**2


@pytest.fixture
def opened(call, upload, disc):
    return call("embed", image=upload(disc(), "disc.png"))


@pytest.fixture
def picture(opened):
    return {"picture": opened["picture"]}


def test_checkpoints_are_listed(call, checkpoints, plain_name):
    checkpoints.get(plain_name)
    answer = call("checkpoints")
    assert answer["default"] == "tiny" and answer["version"]
    tiny, plain = answer["checkpoints"]
    assert tiny["name"] == "tiny" and tiny["has_text"] and tiny["state"] == "ready"
    assert tiny["device"] == "cpu" and tiny["dtype"] == "float32" and tiny["parameters"] > 10**6
    assert plain["name"] == plain_name and plain["has_text"] is False


# --- opening --------------------------------------------------------------------------------------------------------


def test_embed_says_how_far_it_is_and_ends_with_everything_a_page_needs(client, upload, disc, fetch, checkpoints):
    from gradio_client import handle_file

    job = client.submit(image=upload(disc(), "my disc.png"), api_name="/embed")
    job.result()
    *steps, ready = job.outputs()
    assert [step["stage"] for step in steps] == ["loading", "reading", "encoding"]
    assert ready["stage"] == "ready" and ready["size"] == [120, 160] and ready["resized"] == [192, 256]
    assert ready["checkpoint"] == "tiny" and ready["name"] == "my disc.png" and len(ready["picture"]) >= 22
    values = np.frombuffer(fetch(ready["embedding"]), "<f2").reshape(ready["shape"])
    known = checkpoints.get("tiny").predictor.encode(Image.open(io.BytesIO(disc()))).tensor.numpy()
    assert np.abs(values - known).max() < 2e-2
    shown = Image.open(io.BytesIO(fetch(ready["image"])))
    assert shown.size == (160, 120) and shown.format in ("PNG", "JPEG", "WEBP")
    assert handle_file  # the client's way to name files; used in the load tests


def test_the_copy_to_show_is_upright_and_small_enough(call, upload, fetch):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (3000, 900), (10, 200, 30)).save(file, "JPEG", exif=exif)
    ready = call("embed", image=upload(file.getvalue(), "big.jpg"))
    assert ready["size"] == [3000, 900]
    assert Image.open(io.BytesIO(fetch(ready["image"]))).size == (614, 2048)


def test_each_opening_has_an_id_of_its_own(call, upload, disc):
    first, second = (call("embed", image=upload(disc())) for _ in range(2))
    assert first["picture"] != second["picture"]


def test_examples_are_opened_by_name(call, app):
    from sam_hf.ui.blocks import examples

    listed = examples()
    assert len(listed) >= 3
    for example in listed:
        assert call("embed", image={"example": example["name"]})["size"] == example["size"]
    assert "expected one of" in call("embed", image={"example": "../canvas"})


BAD_FILES = {
    "empty.png": (b"", "the file is empty"),
    "text.png": (b"no picture at all", "no picture of a known format"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_get_a_sentence(call, upload, name, app_folder):
    content, expected = BAD_FILES[name]
    said = call("embed", image=upload(content, name))
    assert said.startswith("error: ") and expected in said and str(app_folder) not in said


BAD_IMAGES = [
    {"path": "/etc/passwd"},
    {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
    {"path": "../../etc/passwd", "meta": {"_type": "gradio.FileData"}},
    {"path": "http://127.0.0.1:1/a.png", "meta": {"_type": "gradio.FileData"}},
    {"path": "file:///etc/passwd", "meta": {"_type": "gradio.FileData"}},
    {"path": None, "url": "http://169.254.169.254/", "meta": {"_type": "gradio.FileData"}},
    {"path": "x", "url": "http://169.254.169.254/", "meta": {"_type": "gradio.FileData"}},
    {"url": "http://169.254.169.254/"},
    {"picture": "guess"},
    {"picture": None},
    {"example": 3},
    {},
    [],
    "x.png",
    7,
    None,
]


@pytest.mark.parametrize("image", BAD_IMAGES, ids=str)
@pytest.mark.parametrize("endpoint", ["embed", "segment"])
def test_images_that_are_none_are_refused_in_a_sentence(call, endpoint, image):
    said = call(endpoint, image=image)
    assert isinstance(said, str) and said.startswith("error: ")
    assert any(word in said for word in ("image", "picture", "upload", "request"))
    assert "/etc" not in said and "169.254" not in said


# --- one object -----------------------------------------------------------------------------------------------------


def test_a_click_finds_the_disc(call, picture, disc_mask, overlap):
    answer = call("segment", image=picture, points=[[60, 50]])
    assert len(answer["masks"]) == 3 and answer["steps"] == 1
    best = answer["masks"][answer["selected"]]
    assert best["score"] == max(mask["score"] for mask in answer["masks"])
    mask = rle.decode(best["rle"])
    assert overlap(mask, disc_mask) > 0.9
    assert best["area"] == mask.sum() and best["rle"]["size"] == [120, 160]
    left, top, width, height = best["bbox"]
    assert mask[top : top + height, left : left + width].sum() == mask.sum()


def test_the_file_itself_will_do(call, upload, disc, picture):
    file = upload(disc())
    assert call("segment", image=file, points=[[60, 50]]) == call("segment", image=picture, points=[[60, 50]])


def test_steps_are_folded_as_a_session_does(call, picture, checkpoints, upload, disc):
    from sam_hf.inference.session import decode_steps, read_steps

    steps = [
        {"points": [[60, 50]], "labels": [1]},
        {"points": [[60, 50], [100, 100]], "labels": [1, 0], "previous": True},
        {"points": [[60, 50], [100, 100]], "labels": [1, 0], "box": [25, 15, 95, 85], "previous": True},
    ]
    answer = call("segment", image=picture, steps=steps)
    predictor = checkpoints.get("tiny").predictor
    embedding = predictor.encode(Image.open(io.BytesIO(disc())))
    known = decode_steps(predictor, embedding, read_steps(steps, (120, 160)))
    assert answer["steps"] == 3 and len(answer["masks"]) == len(known.masks)
    assert np.array_equal(rle.decode(answer["masks"][answer["selected"]]["rle"]), known.mask)


def test_a_brush_and_text_are_prompts(call, picture, disc_mask, overlap):
    brush = call("segment", image=picture, steps=[{"brush": rle.encode(disc_mask)}])
    assert overlap(rle.decode(brush["masks"][brush["selected"]]["rle"]), disc_mask) > 0.7
    both = call("segment", image=picture, points=[[60, 50]], text="a red circle")
    assert overlap(rle.decode(both["masks"][both["selected"]]["rle"]), disc_mask) > 0.8


def test_logits_come_as_a_file(call, picture, fetch):
    answer = call("segment", image=picture, box=[25, 15, 95, 85], return_logits=True)
    logits = np.load(io.BytesIO(fetch(answer["logits"])), allow_pickle=False)
    assert logits.shape == (1, 128, 128) and logits.dtype == np.float32


@pytest.mark.parametrize(
    "asked, names",
    [
        ({}, "prompt"),
        ({"points": []}, "prompt"),
        ({"points": [[1]]}, "points"),
        ({"points": [["a", "b"]]}, "points"),
        ({"points": [[1e9, 0]]}, "points"),
        ({"points": [[5, 5]] * 300}, "points"),
        ({"points": [[5, 5]], "labels": [2]}, "labels"),
        ({"points": [[5, 5]], "labels": [1, 1]}, "labels"),
        ({"labels": [1]}, "labels"),
        ({"box": [9, 9, 1, 1]}, "box"),
        ({"box": [1, 2, 3]}, "box"),
        ({"box": "all"}, "box"),
        ({"text": ""}, "text"),
        ({"text": " " * 50}, "text"),
        ({"text": "x" * 20000}, "text"),
        ({"steps": []}, "steps"),
        ({"steps": {}}, "steps"),
        ({"steps": [{"points": [[1, 1]]}], "points": [[1, 1]]}, "steps"),
        ({"steps": [{"previous": True}]}, "steps"),
        ({"steps": [{"points": [[1, 1]], "colour": 1}]}, "colour"),
        ({"steps": [{"brush": {"size": [1, 1], "counts": "1"}}]}, "brush"),
        ({"steps": [{"brush": {"size": [120, 160], "counts": "~~~~"}}]}, "brush"),
        ({"points": [[5, 5]], "checkpoint": "facebook/sam-vit-huge"}, "checkpoint"),
        ({"points": [[5, 5]], "checkpoint": ["tiny"]}, "checkpoint"),
    ],
)
def test_wrong_prompts_are_refused_by_name(call, picture, asked, names):
    said = call("segment", image=picture, **asked)
    assert isinstance(said, str) and names in said and len(said) < 300


def test_one_checkpoints_picture_is_encoded_anew_for_another(call, picture, plain_name):
    answer = call("segment", image=picture, checkpoint=plain_name, points=[[60, 50]])
    assert len(answer["masks"]) == 3


def test_text_on_a_checkpoint_without_it(call, picture, plain_name):
    answer = call("segment", image=picture, checkpoint=plain_name, points=[[60, 50]], text="a red circle")
    assert len(answer["masks"]) == 1
    assert call("phrase", text="a red circle", checkpoint=plain_name)["embedding"] is None


# --- text, everything -----------------------------------------------------------------------------------------------


def test_a_phrase_becomes_a_unit_vector(call, checkpoints):
    answer = call("phrase", text="a red circle")
    known = checkpoints.get("tiny").predictor.text_vectors(["a red circle"])[0].numpy()
    assert np.allclose(answer["embedding"], known, atol=1e-5) and answer["note"] is None
    assert "text" in call("phrase", text="")


def test_phrases_are_found_or_said_to_be_absent(call, picture, disc_mask, overlap):
    found, absent = call("segment_text", image=picture, phrases=["a red circle", "a fire truck"])
    assert not found["absent"] and found["phrase"] == "a red circle" and 0 <= found["presence"] <= 1
    assert overlap(rle.decode(found["instances"][0]["rle"]), disc_mask) > 0.8
    assert absent["presence"] < found["presence"]
    keys = {"rle", "bbox", "score", "text_probability", "predicted_iou", "stability_score"}
    assert set(found["instances"][0]) == keys


@pytest.mark.parametrize(
    "asked, names",
    [
        ({"phrases": []}, "phrases"),
        ({"phrases": ["  "]}, "phrases[0]"),
        ({"phrases": "a cup"}, "phrases"),
        ({"phrases": ["a"] * 40}, "phrases"),
        ({"phrases": ["a cup"], "grounding": "magic"}, "grounding"),
        ({"phrases": ["a cup"], "instances": "none"}, "instances"),
        ({"phrases": ["a cup"], "negative": [3]}, "negative[0]"),
        ({"phrases": ["\ud800"]}, "phrases[0]"),
    ],
)
def test_wrong_questions_about_text_are_refused_by_name(call, picture, asked, names):
    said = call("segment_text", image=picture, **asked)
    assert isinstance(said, str) and names in said


def test_everything_says_how_far_it_is_and_ends_with_records(client, picture, disc_mask, overlap):
    options = {"points_per_side": 16, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.5}
    job = client.submit(image=picture, **options, text=["circle", "background"], api_name="/everything")
    job.result()
    *steps, last = job.outputs()
    assert [step["done"] for step in steps] == [0, 64, 128, 192, 256] and all(not step["final"] for step in steps)
    assert last["final"] and last["total"] == 256 and last["records"]
    assert max(overlap(rle.decode(one["segmentation"]), disc_mask) for one in last["records"]) > 0.85
    for one in last["records"]:
        assert {"area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"} <= set(one)
        assert one["label"] in ("circle", "background", "other") and 0 <= one["label_probability"] <= 1


@pytest.mark.parametrize(
    "asked, names",
    [
        ({"points_per_side": 0}, "points_per_side"),
        ({"points_per_side": 65}, "points_per_side"),
        ({"points_per_side": 2.5}, "points_per_side"),
        ({"points_per_side": "many"}, "points_per_side"),
        ({"pred_iou_thresh": 7}, "pred_iou_thresh"),
        ({"stability_score_thresh": -1}, "stability_score_thresh"),
        ({"min_mask_region_area": -5}, "min_mask_region_area"),
        ({"text": ["other"]}, "text[0]"),
        ({"text": ["cup", "cup"]}, "text[1]"),
    ],
)
def test_wrong_options_of_everything_are_refused_by_name(call, picture, asked, names):
    said = call("everything", image=picture, **asked)
    assert isinstance(said, str) and names in said


# --- results --------------------------------------------------------------------------------------------------------


def test_refining_fills_holes_drops_islands_and_draws_outlines(call):
    mask = np.zeros((40, 50), bool)
    mask[5:30, 5:30] = True
    mask[10:12, 10:12] = False
    mask[35, 45] = True
    answer = call("refine", rle=rle.encode(mask), fill_holes=10, drop_islands=5, polygon_detail=1)
    assert answer["area"] == 625 and answer["bbox"] == [5, 5, 25, 25]
    assert answer["polygons"] == [answer["polygons"][0]] and len(answer["polygons"][0]) == 8
    assert call("refine", rle=rle.encode(mask))["area"] == mask.sum()
    assert call("refine", rle=rle.encode(mask))["polygons"] == []


@pytest.mark.parametrize(
    "asked, names",
    [
        ({"rle": None}, "rle"),
        ({"rle": {"size": [2, 2]}}, "counts"),
        ({"rle": {"size": [10**6, 10**6], "counts": "1"}}, "rle"),
        ({"rle": {"size": [2, 2], "counts": "4"}, "fill_holes": "x"}, "fill_holes"),
        ({"rle": {"size": [2, 2], "counts": "4"}, "polygon_detail": 3}, "polygon_detail"),
    ],
)
def test_wrong_masks_are_refused_by_name(call, asked, names):
    said = call("refine", **asked)
    assert isinstance(said, str) and names in said


@pytest.fixture
def objects(call, picture):
    steps = [{"points": [[60, 50]], "labels": [1]}]
    answer = call("segment", image=picture, steps=steps)
    best = answer["masks"][answer["selected"]]
    one = {"rle": best["rle"], "name": "disc", "color": "#d55e00", "score": best["score"], "steps": steps}
    other = np.zeros((120, 160), bool)
    other[90:110, 120:150] = True
    return [one, {"rle": rle.encode(other), "name": "corner", "steps": []}]


def test_every_format_is_a_file_of_its_kind(call, picture, objects, fetch):
    def export(file_format, which=objects):
        file = call("export", image=picture, objects=which, format=file_format)
        return file["orig_name"], fetch(file)

    for file_format in ("coco", "coco_rle", "sa1b", "labelme", "geojson"):
        name, content = export(file_format)
        assert name.startswith("disc") and json.loads(content), file_format
    assert len(json.loads(export("coco")[1])["annotations"]) == 2
    first, second = json.loads(export("sa1b")[1])["annotations"]
    assert first["point_coords"] == [[60, 50]] and second["point_coords"] == []
    assert export("svg")[1].startswith((b"<svg", b"<?xml"))
    for file_format in ("zip", "yolo", "png"):
        assert zipfile.ZipFile(io.BytesIO(export(file_format)[1])).testzip() is None, file_format
    assert np.asarray(Image.open(io.BytesIO(export("png", objects[:1])[1]))).any()
    index = np.asarray(Image.open(io.BytesIO(export("index_png")[1])))
    assert index.shape == (120, 160) and set(np.unique(index)) == {0, 1, 2}
    cutout = Image.open(io.BytesIO(export("cutout")[1]))
    assert cutout.mode == "RGBA"


def test_removing_the_background(call, picture, objects, fetch):
    for which in (objects, []):
        file = call("export", image=picture, objects=which, format="background")
        image = Image.open(io.BytesIO(fetch(file)))
        assert image.mode == "RGBA" and image.size == (160, 120)
    alpha = np.asarray(image)[..., 3]
    assert 0 < (alpha == 0).mean() < 1


def test_features_are_the_embedding(call, picture, fetch, checkpoints, disc):
    from safetensors.numpy import load

    known = checkpoints.get("tiny").predictor.encode(Image.open(io.BytesIO(disc()))).tensor.numpy()
    values = np.load(io.BytesIO(fetch(call("export", image=picture, format="npy"))), allow_pickle=False)
    assert np.array_equal(values, known)
    stored = load(fetch(call("export", image=picture, format="safetensors")))
    assert np.array_equal(stored["image_embeddings"], known)


def test_a_session_comes_back_to_the_same_masks(call, picture, objects, fetch):
    session = json.loads(fetch(call("export", image=picture, objects=objects, format="session")))
    assert session["format"] == "sam_hf.session" and session["image"]["name"] == "disc.png"
    answer = call("replay", image=picture, session=session)
    assert [one["name"] for one in answer["objects"]] == ["disc", "corner"]
    assert [one["iou"] for one in answer["objects"]] == [1.0, 1.0]
    assert answer["objects"][0]["rle"] == objects[0]["rle"]


def test_replaying_says_how_far_it_is(client, call, picture, objects, fetch):
    session = json.loads(fetch(call("export", image=picture, objects=objects, format="session")))
    job = client.submit(image=picture, session=session, api_name="/replay")
    job.result()
    *steps, last = job.outputs()
    assert [(step["done"], step["total"], step["final"]) for step in steps] == [(1, 2, False), (2, 2, False)]
    assert last["final"] and len(last["objects"]) == 2


def test_requests_that_would_take_minutes_are_refused_at_once(call, picture, objects):
    size = [7000, 7000]
    full = {"rle": rle.encode(np.ones(size, bool)), "steps": []}
    frame = {"format": "sam_hf.session", "version": 1, "image": {"size": size}}
    assert "objects: expected at most 204" in call("replay", image=picture, session=frame | {"objects": [full] * 1024})
    many = [{"steps": [{"points": [[1, 2]]}] * 256}] * 17
    frame = {"format": "sam_hf.session", "version": 1, "image": {"size": [120, 160]}}
    assert "at most 4096 steps" in call("replay", image=picture, session=frame | {"objects": many})
    noise = rle.encode(np.indices((700, 700)).sum(axis=0) % 2 == 0)
    assert "corners" in call("refine", rle=noise, polygon_detail=0.5)
    assert call("refine", rle=noise)["area"] == 700 * 350


@pytest.mark.parametrize("session", [{}, {"format": "other"}, {"format": "sam_hf.session", "version": 9}, [], "x"])
def test_what_is_no_session_is_refused(call, picture, session):
    said = call("replay", image=picture, session=session)
    assert isinstance(said, str) and said.startswith("error: ") and "something went wrong" not in said


@pytest.mark.parametrize(
    "asked, names",
    [
        ({"format": "exe"}, "format"),
        ({"format": "coco"}, "objects"),
        ({"format": "coco", "objects": [{"name": "x"}]}, "objects[0]"),
        ({"format": "coco", "objects": [3]}, "objects[0]"),
        ({"format": "coco", "objects": [{"rle": {"size": [2, 2], "counts": "4"}}]}, "objects[0].rle"),
        ({"format": "npy", "name": 3}, "name"),
    ],
)
def test_wrong_exports_are_refused_by_name(call, picture, asked, names):
    said = call("export", image=picture, **asked)
    assert isinstance(said, str) and names in said


def test_names_never_become_paths_or_markup(call, picture, objects, fetch):
    file = call("export", image=picture, objects=objects[:1], format="png", name="../../<script>alert(1)</script>.png")
    assert "/" not in file["orig_name"] and "<" not in file["orig_name"] and fetch(file)


# --- the decoder of browsers ----------------------------------------------------------------------------------------


def test_the_browsers_decoder_answers_as_the_server_does(call, opened, picture, fetch, overlap):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript", reason="exports the decoder")
    answer = call("decoder")
    assert answer["image_size"] == 256 and answer["grid"] == [32, 32] and answer["channels"] == 128
    assert answer["text_width"] == len(call("phrase", text="a cup")["embedding"])
    image, click = (onnxruntime.InferenceSession(fetch(answer[part])) for part in ("per_image", "per_click"))
    embedding = np.frombuffer(fetch(opened["embedding"]), "<f2").reshape(opened["shape"])
    none = {"mask_input": np.zeros((1, 1, 128, 128), "f4"), "has_mask_input": np.zeros(1, "f4")}
    names = [output.name for output in image.get_outputs()]
    shared = dict(zip(names, image.run(None, {"image_embeddings": embedding, **none}), strict=True))
    points = {"input_points": np.array([[[60, 50]]], "f4") * 256 / 160, "input_labels": np.array([[1]])}
    scores, logits = click.run(None, {**shared, **points, "text_embeds": np.zeros((1, 128), "f4")})
    served = call("segment", image=picture, points=[[60, 50]], return_logits=True)
    known = np.load(io.BytesIO(fetch(served["logits"])))
    for index in range(3):
        assert overlap(logits[0, index + 1] > 0, known[index] > 0) > 0.99
        assert abs(scores[0, index + 1] - served["masks"][index]["score"]) < 0.01


def test_the_decoder_is_kept_for_the_next_start(checkpoints, plain_name, app_folder, monkeypatch):
    pytest.importorskip("onnxscript", reason="exports the decoder")
    from sam_hf.ui import browser_decoder

    first, _ = (checkpoints.decoder(name) for name in ("tiny", plain_name))
    assert first.per_click.is_relative_to(app_folder / "cache")
    monkeypatch.setattr(browser_decoder, "_export", None)  # what is there is not made again
    again = browser_decoder.BrowserDecoders().get("tiny", checkpoints.get("tiny").predictor)
    assert again == first
    left = [path.name for path in first.per_click.parent.parent.iterdir() if path.name.startswith(".")]
    assert not left


def test_exporting_one_decoder_does_not_hold_up_another(checkpoints, plain_name, tmp_path, monkeypatch):
    from sam_hf.ui.browser_decoder import BrowserDecoders

    begun, let_go = threading.Event(), threading.Event()

    def files(self, source, key):
        if source == "slow":
            begun.set()
            assert let_go.wait(30)
        return tmp_path

    monkeypatch.setattr(BrowserDecoders, "_files", files)
    decoders = BrowserDecoders(tmp_path)
    tiny, plain = (checkpoints.get(name).predictor for name in ("tiny", plain_name))
    thread = threading.Thread(target=decoders.get, args=("slow", plain))
    thread.start()
    assert begun.wait(30)
    assert decoders.get("quick", tiny).image_size == 256
    assert decoders.made(plain) is None
    let_go.set()
    thread.join()


def test_an_export_that_takes_for_ever_is_ended(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="exports the decoder")
    from sam_hf.ui import browser_decoder

    monkeypatch.setattr(browser_decoder, "LONGEST_EXPORT", 0.01)
    with pytest.raises(OSError, match="took more than 0.01 seconds"):
        browser_decoder._export("tiny", tmp_path)
