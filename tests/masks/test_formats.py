"""Every format read back by the program it is for, or by the few lines with which that program reads it."""

import base64
import io
import json
import weakref
import zipfile
from contextlib import redirect_stdout
from pathlib import PurePosixPath, PureWindowsPath
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

from sam_hf.data.sa1b import parse_record
from sam_hf.masks import rle
from sam_hf.masks.formats import (
    EXPORTS,
    LabeledMask,
    cut_out,
    export,
    index_png,
    mask_png,
    to_coco,
    to_geojson,
    to_labelme,
    to_sa1b,
    to_svg,
    to_yolo,
    to_zip,
    zip_files,
)
from sam_hf.masks.labeled_mask import clean_text, safe_file_name, safe_file_names
from sam_hf.masks.polygons import signed_area

SIZE = (60, 80)
HOSTILE = '<script>alert("1")</script> & \'\x00\x1b[31m\u202e\ud800 ]]> {{x}} ${y}\n../../etc/passwd 🐈'


def _masks() -> dict[str, np.ndarray]:
    """A blob, one with a hole, one of two parts, a pixel, a line, nothing, everything."""
    masks = {name: np.zeros(SIZE, np.uint8) for name in ("blob", "ring", "parts", "pixel", "line", "nothing", "all")}
    cv2.ellipse(masks["blob"], (40, 30), (25, 15), 20, 0, 360, 1, -1)
    cv2.circle(masks["ring"], (30, 30), 20, 1, -1)
    cv2.circle(masks["ring"], (30, 30), 9, 0, -1)
    cv2.circle(masks["parts"], (15, 15), 10, 1, -1)
    cv2.rectangle(masks["parts"], (50, 30), (75, 55), 1, -1)
    masks["pixel"][59, 79] = 1
    masks["line"][7, 3:60] = 1
    masks["all"][:] = 1
    return {name: mask.astype(bool) for name, mask in masks.items()}


MASKS = _masks()
LABELED = [LabeledMask(mask, name, "#d55e00", 0.25) for name, mask in MASKS.items()]


def _iou(first, second) -> float:
    union = (first | second).sum()
    return (first & second).sum() / union if union else 1.0


def _coco(content: dict) -> COCO:
    coco = COCO()
    coco.dataset = json.loads(json.dumps(content))
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


@pytest.mark.parametrize("polygons", [True, False])
def test_coco_by_pycocotools(polygons):
    coco = _coco(to_coco(LABELED, SIZE, "photo.jpg", polygons))
    assert coco.imgs[1] == {"id": 1, "width": 80, "height": 60, "file_name": "photo.jpg"}
    for annotation, (name, mask) in zip(coco.loadAnns(coco.getAnnIds(imgIds=[1])), MASKS.items(), strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), mask)
        assert coco.cats[annotation["category_id"]]["name"] == name
        assert annotation["area"] == mask.sum() and annotation["score"] == 0.25
        assert isinstance(annotation["segmentation"], list) == (polygons and name not in ("ring", "nothing"))
        rows, columns = np.nonzero(mask)
        if len(rows):
            x, y, width, height = annotation["bbox"]
            assert (x, y, x + width, y + height) == (
                *(columns.min(), rows.min()),
                *(columns.max() + 1, rows.max() + 1),
            )


def test_coco_has_one_category_per_name():
    coco = _coco(to_coco([LabeledMask(MASKS["blob"], name) for name in ("cat", "dog", "cat", "", " ")], SIZE))
    names = [coco.cats[annotation["category_id"]]["name"] for annotation in coco.loadAnns(coco.getAnnIds())]
    assert names == ["cat", "dog", "cat", "object", "object"] and len(coco.cats) == 3


def test_sa1b_by_our_reader():
    content = json.loads(json.dumps(to_sa1b(LABELED, SIZE, "sa_7.jpg", 7)))
    record = parse_record(content, b"", "sa_7.json")
    assert record.size == SIZE and content["image"]["image_id"] == 7
    for segmentation, annotation, (name, mask) in zip(
        record.masks, content["annotations"], MASKS.items(), strict=True
    ):
        np.testing.assert_array_equal(rle.decode(segmentation), mask)
        assert annotation["label"] == name and annotation["crop_box"] == [0, 0, 80, 60]
        assert annotation["predicted_iou"] == 0.25 and annotation["area"] == mask.sum()
    assert record.phrases == ((),) * len(MASKS)  # what an object is called is no phrase for training


def _read_yolo(text: str, size) -> list[tuple[int, np.ndarray]]:
    """As ultralytics reads labels (`verify_image_label`) and draws them (`polygon2mask`)."""
    height, width = size
    found = []
    for line in text.strip().splitlines():
        number, *values = line.split()
        segment = np.array(values, dtype=np.float32).reshape(-1, 2)
        assert 0 <= segment.min() and segment.max() <= 1 and len(values) >= 6
        mask = np.zeros(size, np.uint8)
        polygon = np.asarray([(segment * (width, height)).reshape(-1)], dtype=np.int32).reshape(1, -1, 2)
        cv2.fillPoly(mask, polygon, color=1)
        found.append((int(number), mask.astype(bool)))
    return found


def test_yolo_as_ultralytics_reads_it():
    labels = to_yolo(LABELED, SIZE)
    drawn = {labels.classes[number]: mask for number, mask in _read_yolo(labels.labels, SIZE)}
    assert set(drawn) == set(MASKS) - {"nothing"}
    for name, mask in drawn.items():
        assert _iou(mask, MASKS[name]) >= (0.95 if name == "parts" else 0.99), name  # parts: the bridge between
    content = yaml.safe_load(labels.data_yaml)
    assert content["names"] == dict(enumerate(MASKS)) and labels.classes_txt.splitlines() == list(MASKS)


def test_yolo_joins_many_holes_and_parts():
    values = cv2.GaussianBlur(np.random.default_rng(3).random((300, 400)), (0, 0), 6)
    mask = values > np.quantile(values, 0.4)
    ((_, drawn),) = _read_yolo(to_yolo([LabeledMask(mask)], mask.shape).labels, mask.shape)
    assert _iou(drawn, mask) >= 0.98


def test_yolo_on_pictures_of_any_shape():
    for shape in ((1, 1), (1, 5000), (7000, 3), (10, 10)):
        mask = np.zeros(shape, bool)
        mask[-1, -1] = True
        ((_, drawn),) = _read_yolo(to_yolo([LabeledMask(mask)], shape).labels, shape)
        np.testing.assert_array_equal(drawn, mask)


def test_yolo_takes_given_classes_and_quotes_any_name():
    labels = to_yolo([LabeledMask(MASKS["blob"], "dog")], SIZE, classes=["cat", "dog"])
    assert labels.labels.startswith("1 ")
    with pytest.raises(ValueError, match="classes: .* 'bird' is missing"):
        to_yolo([LabeledMask(MASKS["blob"], "bird")], SIZE, classes=["cat", "dog"])
    for name in (HOSTILE, "no", "1.0", "a: b # c", '"quoted"', "back\\slash", "\x85next\u2028line", "- item", "ß🐈"):
        labels = to_yolo([LabeledMask(MASKS["blob"], name)], SIZE)
        assert yaml.safe_load(labels.data_yaml)["names"] == {0: clean_text(name)}
        assert labels.classes_txt.split("\n") == [clean_text(name), ""]


def _read_labelme(content: dict) -> dict[int, np.ndarray]:
    """As labelme's `shapes_to_label` and `shape_to_mask` read shapes, joined by group."""
    size = content["imageHeight"], content["imageWidth"]
    found: dict[int, np.ndarray] = {}
    for shape in content["shapes"]:
        if shape["shape_type"] == "mask":
            part = np.array(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))).astype(bool)
            mask = np.zeros(size, dtype=bool)
            (x1, y1), (x2, y2) = np.asarray(shape["points"]).astype(int)
            mask[y1 : y2 + 1, x1 : x2 + 1] = part
        else:
            picture = Image.fromarray(np.zeros(size, dtype=np.uint8))
            assert shape["shape_type"] == "polygon" and len(shape["points"]) > 2
            ImageDraw.Draw(picture).polygon(xy=[tuple(point) for point in shape["points"]], outline=1, fill=1)
            mask = np.array(picture, dtype=bool)
        found[shape["group_id"]] = found.get(shape["group_id"], False) | mask
    return found


def test_labelme_as_labelme_reads_it():
    content = json.loads(json.dumps(to_labelme(LABELED, SIZE, "folder/photo.jpg")))
    assert {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"} == set(content)
    assert content["imagePath"] == "photo.jpg"
    drawn = _read_labelme(content)
    names = list(MASKS)
    assert {names[group - 1] for group in drawn} == set(MASKS) - {"nothing"}
    for group, mask in drawn.items():
        np.testing.assert_array_equal(mask, MASKS[names[group - 1]], err_msg=names[group - 1])
    kinds = {shape["label"]: shape["shape_type"] for shape in content["shapes"]}
    assert kinds["ring"] == "mask" and kinds["parts"] == kinds["pixel"] == "polygon"


def _fill(rings, size) -> np.ndarray:
    """Even-odd at the middle of every pixel."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.zeros(size, dtype=bool)
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True):
            if y1 != y2:
                inside ^= ((y1 <= y) != (y2 <= y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside


def test_svg_is_the_masks():
    root = ElementTree.fromstring(to_svg(LABELED, SIZE, "photo.jpg"))
    assert root.get("viewBox") == "0 0 80 60" and (root.get("width"), root.get("height")) == ("80", "60")
    space = "{http://www.w3.org/2000/svg}"
    paths = root.findall(f"{space}path")
    assert [path.find(f"{space}title").text for path in paths] == [name for name in MASKS if name != "nothing"]
    for path in paths:
        assert path.get("fill-rule") == "evenodd" and path.get("fill") == "#d55e00"
        rings = [
            [tuple(map(float, corner.split())) for corner in part.removesuffix("Z").split("L")]
            for part in path.get("d").split("M")[1:]
        ]
        np.testing.assert_array_equal(_fill(rings, SIZE), MASKS[path.find(f"{space}title").text])


def test_geojson_is_the_masks_and_turns_as_it_should():
    content = json.loads(json.dumps(to_geojson(LABELED, SIZE, "photo.jpg"), allow_nan=False))
    assert content["type"] == "FeatureCollection" and len(content["features"]) == len(MASKS)
    for feature, (name, mask) in zip(content["features"], MASKS.items(), strict=True):
        assert feature["type"] == "Feature" and feature["properties"]["name"] == name
        geometry = feature["geometry"]
        if name == "nothing":
            assert geometry is None
            continue
        assert geometry["type"] == ("MultiPolygon" if name == "parts" else "Polygon")
        polygons = geometry["coordinates"] if name == "parts" else [geometry["coordinates"]]
        for outer, *holes in polygons:
            assert all(ring[0] == ring[-1] and len(ring) >= 4 for ring in (outer, *holes))
            assert signed_area(np.array(outer[:-1])) > 0
            assert all(signed_area(np.array(hole[:-1])) < 0 for hole in holes)
        np.testing.assert_array_equal(_fill([ring[:-1] for rings in polygons for ring in rings], SIZE), mask)


def test_index_pictures():
    pictures = [MASKS["all"], MASKS["blob"], MASKS["ring"]]
    labeled = [LabeledMask(mask, color=f"#0000{number}0") for number, mask in enumerate(pictures, start=1)]
    picture = Image.open(io.BytesIO(index_png(labeled, SIZE)))
    expected = np.ones(SIZE)
    expected[MASKS["blob"]], expected[MASKS["ring"]] = 2, 3
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.array(picture), expected)
    assert picture.getpalette()[:12] == [0, 0, 0, 0, 0, 16, 0, 0, 32, 0, 0, 48]
    many = np.zeros((300, 1, 300), dtype=bool)
    many[np.arange(300), 0, np.arange(300)] = True
    deep = np.array(Image.open(io.BytesIO(index_png([LabeledMask(mask) for mask in many], (1, 300)))))
    assert deep[0].tolist() == list(range(1, 301))
    assert np.array(Image.open(io.BytesIO(index_png([], SIZE)))).max() == 0


def test_pictures_of_masks_and_cut_outs():
    for bits, mode in ((1, "1"), (8, "L")):
        picture = Image.open(io.BytesIO(mask_png(MASKS["ring"], bits)))
        assert picture.mode == mode
        np.testing.assert_array_equal(np.array(picture).astype(bool), MASKS["ring"])
    with pytest.raises(ValueError, match="bits: expected 1 or 8, got 2"):
        mask_png(MASKS["ring"], 2)
    image = np.random.default_rng(0).integers(1, 256, (*SIZE, 3), dtype=np.uint8)
    full = cut_out(image, MASKS["blob"], tight=False)
    assert full.shape == (*SIZE, 4)
    np.testing.assert_array_equal(full[..., 3] == 255, MASKS["blob"])
    np.testing.assert_array_equal(full[MASKS["blob"]][:, :3], image[MASKS["blob"]])
    assert not full[~MASKS["blob"]].any()


@pytest.mark.parametrize("file_format", EXPORTS)
@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_export_of_hostile_names_is_well_formed(file_format, count):
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    masks = [LabeledMask(one.mask, HOSTILE, one.color) for one in LABELED[:count]]
    if file_format == "cutout" and not count:
        with pytest.raises(ValueError, match="at least one"):
            export(file_format, masks, image, SIZE, HOSTILE)
        return
    file = export(file_format, masks, image, SIZE, HOSTILE)
    assert file == export(file_format, masks, image, SIZE, HOSTILE)  # the same bytes each time
    assert PurePosixPath(file.name).name == PureWindowsPath(file.name).name == file.name
    if file.name.endswith("json"):
        assert "../" not in str(json.loads(file.content).get("imagePath"))
    elif file.name.endswith("svg"):
        root = ElementTree.fromstring(file.content)
        assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {"svg", "title", "path"}
    elif file.name.endswith("png"):
        Image.open(io.BytesIO(file.content)).load()
    else:
        assert zipfile.ZipFile(io.BytesIO(file.content)).testzip() is None


def test_zip_unpacks_inside_its_folder_under_names_that_every_system_takes(tmp_path):
    names = ["cat", "cat", "Cat", "", "..", "../../up", "/root", "C:\\x", "a/b", "CON", "nul.txt", "trail. ", "é", "é"]
    names += ["x" * 500, "猫" * 200, "\u202egnp.exe", "a\x00b", ".hidden", "-rf", "com¹", "🐈‍⬛"]
    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    masks = [LabeledMask(MASKS["pixel"], name) for name in names]
    archive = zipfile.ZipFile(io.BytesIO(to_zip(masks, image, SIZE, "../photo.jpg", {"session.json": b"{}"})))
    entries = archive.namelist()
    assert len({entry.casefold() for entry in entries}) == len(entries)
    assert len([entry for entry in entries if entry.startswith("masks/")]) == len(names)
    assert {"coco.json", "session.json", "yolo/labels/photo.txt", "index.png"} <= set(entries)
    for entry in entries:
        for part in entry.split("/"):
            assert part not in ("", ".", "..") and not part.startswith(("-", ".")) and part == part.rstrip(" .")
            assert not set(part) & set('\\:*?"<>|\x00') and len(part.encode()) <= 110
            assert not PureWindowsPath(part).is_reserved() if hasattr(PureWindowsPath, "is_reserved") else True
    archive.extractall(tmp_path / "inside")
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_zip_refuses_names_that_lead_out():
    for name in ("../x", "/x", "a/../x", "a//b", "x\\y", "C:x", "", "a/b/c/d", "con"):
        with pytest.raises(ValueError, match="name: expected that of a plain file"):
            zip_files({name: b""})
    with pytest.raises(ValueError, match="twice"):
        zip_files({"a": b"", "A": b""})


def test_safe_names_keep_what_can_be_kept():
    assert safe_file_name("Kätzchen 猫") == "Kätzchen 猫"
    assert safe_file_names(["a", "A", "a-2", "a"]) == ["a", "A-2", "a-2-2", "a-3"]


def test_safe_names_are_safe_of_any_signs():
    signs = list("ab .-~_/\\:con1\x00\u200d\u0301\u212b<\u0338\u202e\ud800ſ猫\t")
    generator = np.random.default_rng(0)
    for _ in range(2000):
        name = "".join(generator.choice(signs, generator.integers(0, 12)))
        safe = safe_file_name(name)
        assert safe == safe_file_name(safe) and safe not in ("", ".", "..") and safe.encode()
        assert not set(safe) & set('/\\:*?"<>|\x00') and not PureWindowsPath(safe).anchor


@pytest.mark.parametrize("file_format", EXPORTS)
def test_masks_are_unpacked_one_by_one(file_format, monkeypatch):
    alive, most = [], 0

    def unpack(packed, decode=rle.decode):
        nonlocal most
        alive.append(weakref.ref(mask := decode(packed).copy()))
        most = max(most, sum(one() is not None for one in alive))
        return mask

    monkeypatch.setattr(rle, "decode", unpack)
    masks = [LabeledMask(rle.encode(MASKS["blob"]), str(number)) for number in range(50)]
    assert export(file_format, masks, np.zeros((*SIZE, 3), np.uint8), SIZE).content
    assert len(alive) >= 50 and most <= 3


def test_run_lengths_will_do_as_a_mask():
    for name, mask in MASKS.items():
        one = LabeledMask(rle.encode(mask), name)
        assert np.array_equal(one.mask, mask) and one.size == SIZE
        assert to_coco([one], SIZE) == to_coco([LabeledMask(mask, name)], SIZE)


def test_noise_is_in_run_lengths_in_coco_and_refused_where_only_outlines_are_known():
    mask = np.indices((700, 700)).sum(axis=0) % 2 == 0
    (annotation,) = to_coco([LabeledMask(mask)], mask.shape)["annotations"]
    assert np.array_equal(rle.decode(annotation["segmentation"]), mask)
    with pytest.raises(ValueError, match="corners"):
        to_svg([LabeledMask(mask)], mask.shape)


def test_yolo_joins_many_parts_but_not_any_number():
    dots = np.zeros((100, 400), bool)
    dots[::2, ::2] = True
    with pytest.raises(ValueError, match="joins its 10,000 islands and holes, at most 2,000: fill"):
        to_yolo([LabeledMask(dots)], dots.shape)


def test_coco_in_run_lengths_throughout():
    content = json.loads(export("coco_rle", LABELED, None, SIZE).content)
    for annotation, one in zip(content["annotations"], LABELED, strict=True):
        assert annotation["segmentation"] == rle.encode(one.mask)


def test_a_zip_that_grows_too_large_is_refused(monkeypatch):
    from sam_hf.masks import formats

    monkeypatch.setattr(formats, "LARGEST_ZIP", 5000)
    made = []

    def contents():
        for number in range(100):
            made.append(number)
            yield f"{number}.bin", np.random.default_rng(number).bytes(1000)

    with pytest.raises(ValueError, match="larger than .* MB: export fewer objects"):
        zip_files(contents())
    assert len(made) < 7  # and the rest is not even made


def test_wrong_values_are_said():
    with pytest.raises(ValueError, match=r"masks\[1\] must have the picture's size \(60, 80\), got \(3, 3\)"):
        to_coco([LABELED[0], LabeledMask(np.ones((3, 3)))], SIZE)
    with pytest.raises(ValueError, match="format: expected one of png, .* got 'exe'"):
        export("exe", LABELED, None, SIZE)
    with pytest.raises(ValueError, match="needs the picture"):
        export("cutout", LABELED, None, SIZE)
    for options, said in (
        ({"color": "red"}, "color"),
        ({"color": '#000000" onload="x'}, "color"),
        ({"score": float("nan")}, "score"),
        ({"detail": 2}, "detail"),
        ({"name": None}, "name"),
        ({"mask": np.ones(3)}, "mask"),
    ):
        with pytest.raises(ValueError, match=said):
            LabeledMask(**({"mask": np.ones((3, 3))} | options))
