"""`SamTextSegmenter`: what it asks groundings, what it makes of their answers, and what it refuses."""

import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sam_hf import SamPredictor, SamTextSegmenter, TextAnswer
from sam_hf.inference.predictor import Prediction
from sam_hf.inference.text import segmenter as segmenter_module
from sam_hf.inference.text.instances import Found, make_instance
from sam_hf.inference.text.segmenter import calibration_name
from sam_hf.inference.text.verdict import Calibration


class Rectangles:
    """A grounding that knows where everything is, and remembers what it was asked."""

    def __init__(self, things, evidence=2.0, name="rectangles"):
        self.things, self.evidence, self.name, self.asked = things, evidence, name, []

    def __call__(self, request):
        self.asked.append(request)
        height, width = request.embedding.original_size
        found = []
        for phrase in request.phrases:
            instances = []
            for index, (left, top, right, bottom) in enumerate(self.things.get(phrase, [])):
                mask = np.zeros((height, width), dtype=bool)
                mask[top:bottom, left:right] = True
                instances.append(make_instance(mask, np.zeros((32, 32)), 0.5 + 0.1 * index, 0.8, 0.9))
            found.append(Found(instances, self.evidence if instances else -np.inf))
        return found


CUPS = [(2, 5, 12, 15), (40, 5, 55, 20)]  # the second one has the higher score


@pytest.fixture(scope="module")
def plain(plain_checkpoint):
    return SamPredictor.from_pretrained(plain_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def reading(text_checkpoint):
    return SamPredictor.from_pretrained(text_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def _boxes(answer):
    return [one.box for one in answer.instances]


def test_a_string_gives_an_answer_a_list_gives_a_list(plain, image):
    segmenter, way = SamTextSegmenter(plain), Rectangles({"cup": CUPS})
    answer = segmenter.segment(image, "cup", grounding=way)
    assert isinstance(answer, TextAnswer)
    assert (answer.phrase, answer.grounding, answer.absent, answer.calibrated) == ("cup", "rectangles", False, False)
    assert _boxes(answer) == [CUPS[1]] and answer.presence == pytest.approx(1 / (1 + np.exp(-2)))
    answers = segmenter.segment(image, ["cup", "dog"], grounding=way)
    assert [answer.phrase for answer in answers] == ["cup", "dog"]
    assert answers[1].absent and answers[1].instances == [] and answers[1].presence == 0.0
    (answer,) = segmenter.segment(image, ("cup",), grounding=way)
    assert _boxes(answer) == [CUPS[1]]


@pytest.mark.parametrize(
    ("phrase", "instances", "expected", "several"),
    [
        ("cup", "auto", [1], False),
        ("cups", "auto", [1, 0], True),
        ("two cups", "auto", [1, 0], True),
        ("cup", "one", [1], False),
        ("cup", "all", [1, 0], True),
        ("left cup", "auto", [0], True),
        ("cup on the right", "auto", [1], True),
        ("biggest cup", "one", [1], True),
    ],
)
def test_how_many_and_which(plain, image, phrase, instances, expected, several):
    way = Rectangles({"cup": CUPS})
    answer = SamTextSegmenter(plain).segment(image, phrase, grounding=way, instances=instances)
    assert _boxes(answer) == [CUPS[index] for index in expected]
    assert answer.phrase == phrase
    assert way.asked[0].phrases == ("cup",) and way.asked[0].several == (several,)


def test_where_one_is_wanted_a_plural_may_be_a_name(plain, image):
    way = Rectangles({"fries": CUPS})
    assert _boxes(SamTextSegmenter(plain).segment(image, "fries", grounding=way, instances="one")) == [CUPS[1]]
    assert way.asked[0].phrases == ("fries",)


def test_what_is_pointed_at_is_answered_whatever_its_place(plain, image):
    way = Rectangles({"cup": CUPS[:1]})
    answer = SamTextSegmenter(plain).segment(image, "second cup from the left", grounding=way, box=[0, 0, 20, 20])
    assert _boxes(answer) == CUPS[:1] and not answer.absent


def test_position_words_can_be_left_alone(plain, image):
    way = Rectangles({"left cup": CUPS})
    answer = SamTextSegmenter(plain, position_words=False).segment(image, "left cups", grounding=way)
    assert _boxes(answer) == CUPS[::-1]


def test_fewer_than_asked_for_is_not_absent(plain, image):
    answer = SamTextSegmenter(plain).segment(image, "third cup from the left", grounding=Rectangles({"cup": CUPS}))
    assert answer.instances == [] and not answer.absent and answer.presence > 0.5


def test_everything_given_reaches_the_grounding(plain, image):
    way, box = Rectangles({}), [1, 2, 30, 30]
    segmenter = SamTextSegmenter(plain, max_proposals=7)
    points, rough = np.array([[5.0, 6.0]]), np.ones((40, 60), dtype=bool)
    segmenter.segment(Image.fromarray(image), "cup", ["mug", "vase"], points, [1], box, rough, grounding=way)
    (request,) = way.asked
    assert request.negatives == ("mug", "vase") and request.max_proposals == 7
    assert request.points is points and request.labels == [1] and request.box is box and request.mask_input is rough
    assert request.pixels.dtype == torch.uint8
    np.testing.assert_array_equal(request.pixels.permute(1, 2, 0).numpy(), image)


def test_floats_and_files_are_the_same_picture(plain, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "image.png")
    way, segmenter = Rectangles({}), SamTextSegmenter(plain)
    for given in (tmp_path / "image.png", image.astype(np.float32) / 255, torch.from_numpy(image)):
        segmenter.segment(given, "cup", grounding=way)
    for request in way.asked:
        np.testing.assert_array_equal(request.pixels.permute(1, 2, 0).numpy(), image)


def test_one_picture_is_encoded_once(reading, image, monkeypatch):
    other = np.roll(image, 3, axis=1)
    encoded = []
    encode = type(reading)._encode
    monkeypatch.setattr(reading, "_encode", lambda *given: encoded.append(1) or encode(reading, *given))
    segmenter = SamTextSegmenter(reading)
    for phrase in ("red mug", "a dog", ["cups", "left cup"], "red mug"):
        segmenter.segment(other, phrase)
    segmenter.segment(other, "red mug", points=[[5, 5]])
    assert len(encoded) == 1


def test_absent_phrases_show_what_was_refused(plain, image):
    calibration = Calibration()
    calibration.fit("rectangles", [1.0, 2.0, 3.0], [-1.0, 0.0], keep=1.0)
    segmenter = SamTextSegmenter(plain, calibration=calibration)
    answer = segmenter.segment(image, "cup", grounding=Rectangles({"cup": CUPS}, evidence=0.5))
    assert answer.absent and answer.calibrated and answer.instances == [] and answer.evidence == 0.5
    assert [one.box for one in answer.refused] == [CUPS[1]]
    answer = segmenter.segment(image, "cup", grounding=Rectangles({"cup": CUPS}, evidence=1.0))
    assert not answer.absent and answer.refused == [] and _boxes(answer) == [CUPS[1]]


def _refusing(name="rectangles"):
    calibration = Calibration()
    calibration.fit(name, [1.0, 2.0, 3.0], [-1.0, 0.0], keep=1.0)
    return calibration


@pytest.mark.parametrize(
    ("geometry", "answered"),
    [
        ({"points": [[5, 6]]}, True),
        ({"points": [[5, 6], [30, 30]], "labels": [1, 0]}, True),
        ({"box": [1, 2, 30, 30]}, True),
        ({"mask_input": np.ones((40, 60), dtype=bool)}, True),
        ({"points": [[5, 6]], "labels": [0]}, False),
    ],
)
def test_what_is_pointed_at_is_one_and_never_absent(plain, image, geometry, answered):
    way = Rectangles({"cup": CUPS}, evidence=-3.0)  # even the defaults refuse it
    segmenter = SamTextSegmenter(plain, calibration=_refusing())
    answer = segmenter.segment(image, "cups", grounding=way, instances="all", **geometry)
    assert answer.absent != answered and not answer.calibrated
    assert len(answer.instances) == answered and len(answer.refused) == (0 if answered else 2)
    assert answer.presence == pytest.approx(1 / (1 + np.exp(3.0)))
    nothing = segmenter.segment(image, "dog", grounding=way, **geometry)
    assert nothing.absent and nothing.presence == 0.0


def test_a_point_that_is_none_says_nothing(plain, image):
    way = Rectangles({"cup": CUPS})
    segmenter = SamTextSegmenter(plain)
    segmenter.segment(image, "cup", points=[[5, 6], [45, 10]], labels=[-1, 0], grounding=way)
    segmenter.segment(image, "cup", points=[[5, 6]], labels=[-1], grounding=way)
    some, none = way.asked
    assert some.points.tolist() == [[45, 10]] and some.labels.tolist() == [0]
    assert none.points is None and none.labels is None and not none.has_geometry


@pytest.mark.parametrize("grounding", ["learned", "dense", "proposals"])
def test_what_is_pointed_at_is_whatever_sam_can_draw(reading, image, colour_clip, monkeypatch, grounding):
    drawn = np.zeros((40, 60), dtype=bool)
    drawn[3:6, 4:9] = True

    def decode(embedding, points=None, labels=None, boxes=None, mask_input=None, text=None, **options):
        count = len(next(given for given in (text, points, boxes, mask_input) if given is not None))
        several = 3 if options.get("multimask_output", True) else 1
        masks = np.zeros((count, several, 40, 60), dtype=bool)
        if several == 1 and text is None:  # of all answers the last that one would ask for
            masks[:, 0] = drawn
        return Prediction(masks, np.full((count, several), 0.4), np.zeros((count, several, 32, 32), np.float32))

    monkeypatch.setattr(reading, "decode_batch", decode)
    answer = SamTextSegmenter(reading, clip=colour_clip).segment(image, "cup", box=[4, 3, 9, 6], grounding=grounding)
    (one,) = answer.instances
    assert not answer.absent and (one.mask == drawn).all()


@pytest.mark.parametrize(
    ("things", "negative", "left"),
    [
        (CUPS, "the cup on the left", CUPS[1:]),
        (CUPS, "the right cup", CUPS[:1]),
        (CUPS, "the cups at the bottom", CUPS[::-1]),  # there are none
        (CUPS[:1], "the cup on the right", CUPS[:1]),  # the only one stands on the left
        (CUPS[:1], "left cup", []),
    ],
)
def test_negative_phrases_are_read_for_places(plain, image, things, negative, left):
    way = Rectangles({"cup": things, "the cup": things})
    answer = SamTextSegmenter(plain).segment(image, "cup", negative, grounding=way, instances="all")
    assert _boxes(answer) == left and answer.absent == (not left)
    assert all(not request.negatives for request in way.asked)


def test_negative_phrases_are_read_for_number(plain, image):
    way = Rectangles({"cup": CUPS})
    SamTextSegmenter(plain).segment(image, "cup", ["all mugs", "vases"], grounding=way)
    assert way.asked[0].negatives == ("mug", "vase")


def test_what_is_cut_off_is_said_once_and_of_what_was_given(reading, image):
    with pytest.warns(UserWarning) as said:
        SamTextSegmenter(reading).segment(image, "red star " * 40)
    (only,) = said
    assert str(only.message).startswith("text: the text has")


def test_negative_phrases_make_other_evidence_than_was_calibrated(plain, image):
    way = Rectangles({"cup": CUPS}, evidence=0.5)
    segmenter = SamTextSegmenter(plain, calibration=_refusing())
    assert segmenter.segment(image, "cup", grounding=way).absent
    answer = segmenter.segment(image, "cup", "mug", grounding=way)
    assert not answer.absent and not answer.calibrated


def test_a_found_calibration_is_for_groundings_without_options(text_checkpoint, tmp_path):
    import shutil

    folder = shutil.copytree(text_checkpoint, tmp_path / "checkpoint")
    both = _refusing("learned")
    both.fit("dense/tiny", [1.0, 2.0], [0.0])
    both.save(folder)
    segmenter = SamTextSegmenter.from_pretrained(folder, device="cpu", dense={"attention": "plain"})
    assert set(segmenter.calibration.curves) == {"learned"}
    segmenter = SamTextSegmenter.from_pretrained(folder, calibration=both, device="cpu", dense={"attention": "plain"})
    assert set(segmenter.calibration.curves) == {"learned", "dense/tiny"}


def test_a_calibration_is_found_beside_the_weights(text_checkpoint, plain_checkpoint, tmp_path):
    import shutil

    folder = shutil.copytree(text_checkpoint, tmp_path / "checkpoint")
    assert SamTextSegmenter.from_pretrained(folder, device="cpu").calibration.curves == {}
    calibration = Calibration()
    calibration.fit("learned", [1.0, 2.0], [0.0])
    calibration.save(folder)
    segmenter = SamTextSegmenter.from_pretrained(folder, device="cpu", position_words=False)
    assert segmenter.calibration.curves == calibration.curves and not segmenter.position_words
    assert SamTextSegmenter(segmenter.predictor, calibration=folder).calibration.curves == calibration.curves


def test_names_of_calibrations(tmp_path, monkeypatch):
    way = Rectangles({}, name="dense")
    assert calibration_name(way) == "dense"
    way.clip = SimpleNamespace(name="ViT-B-16/openai", revision="0123456789abcdef")
    assert calibration_name(way) == "dense/ViT-B-16/openai"
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "./mine", str(tmp_path / "mine"), "local-dir:mine"):
        way.clip.name = name
        assert calibration_name(way) == "dense/mine-01234567"
    (tmp_path / "tiny").mkdir()
    way.clip.name = "tiny"  # the embedded one, whatever lies here
    assert calibration_name(way) == "dense/tiny"


def test_a_clip_that_nobody_calibrated_with_does_not_judge(reading, colour_clip):
    segmenter = SamTextSegmenter(reading, colour_clip)
    assert calibration_name(segmenter.grounding("auto")) == "learned/colours"
    segmenter.calibration.fit("learned", [1.0, 2.0], [0.0])
    assert calibration_name(segmenter.grounding("auto")) == "learned"
    segmenter.calibration.fit("learned/colours", [1.0, 2.0], [0.0])
    assert calibration_name(segmenter.grounding("auto")) == "learned/colours"


# --- which way ---------------------------------------------------------------------------------------------------


def _with_ways(segmenter, **ways):
    segmenter._made.update(ways)
    return segmenter


def test_auto_takes_the_branch_then_the_detector_then_clip(plain, reading, image):
    clip, detector = SimpleNamespace(has_dense_features=True), Rectangles({})
    assert SamTextSegmenter(reading, clip, detector).automatic == "learned"
    assert SamTextSegmenter(plain, clip, detector).automatic == "detector"
    assert SamTextSegmenter(plain, clip).automatic == "dense"
    assert SamTextSegmenter(plain, SimpleNamespace(has_dense_features=False)).automatic == "proposals"
    assert SamTextSegmenter(reading, detector=detector).segment(image, "cup").grounding == "learned"


def test_proposals_look_for_what_dense_has_not_found(plain, image):
    dense, proposals = Rectangles({"cup": CUPS}, name="dense"), Rectangles({"dog": CUPS[:1]}, name="proposals")
    clip = SimpleNamespace(has_dense_features=True)
    segmenter = _with_ways(SamTextSegmenter(plain, clip), dense=dense, proposals=proposals)
    answers = segmenter.segment(image, ["cup", "dogs", "bird"])
    assert [answer.grounding for answer in answers] == ["dense", "proposals", "proposals"]
    assert [len(answer.instances) for answer in answers] == [1, 1, 0]
    assert proposals.asked[0].phrases == ("dog", "bird") and proposals.asked[0].several == (True, False)
    proposals.asked.clear()
    segmenter.segment(image, "cup")
    assert proposals.asked == []


def test_clips_and_detectors_are_loaded_when_needed_and_once(plain, image, monkeypatch):
    made = []
    monkeypatch.setattr(
        segmenter_module.DetectorGrounding,
        "from_pretrained",
        classmethod(lambda cls, name, device=None: made.append(name) or Rectangles({"cup": CUPS}, name="detector")),
    )
    segmenter = SamTextSegmenter(plain, detector="some/detector")
    assert made == []
    for _ in range(2):
        assert segmenter.segment(image, "cup").grounding == "detector"
    assert made == ["some/detector"]


def test_a_way_that_is_being_loaded_keeps_nobody_from_another(plain, image, monkeypatch):
    started, go_on = threading.Event(), threading.Event()

    def load(cls, name, device=None):
        started.set()
        assert go_on.wait(20)
        return Rectangles({"cup": CUPS}, name="detector")

    monkeypatch.setattr(segmenter_module.DetectorGrounding, "from_pretrained", classmethod(load))
    segmenter = _with_ways(SamTextSegmenter(plain, detector="some/detector"), dense=Rectangles({"cup": CUPS}))
    slow = threading.Thread(target=segmenter.grounding, args=("detector",))
    slow.start()
    assert started.wait(20)
    assert len(segmenter.segment(image, "cup", grounding="dense").instances) == 1
    assert slow.is_alive()
    go_on.set()
    slow.join()


def test_a_phrase_chooses_among_the_three_masks_of_a_click(plain, colour_clip, draw):
    picture, (whole, hub) = draw([("red", 80, 60, 40), ("blue", 80, 60, 14)])
    three = Prediction(np.stack([hub, whole, whole | True]), np.full(3, 0.9, np.float32), np.zeros((3, 8, 8)))
    segmenter = SamTextSegmenter(plain, colour_clip)
    assert segmenter.choose_mask(picture, three, "blue hub") == 0
    assert segmenter.choose_mask(picture, three, "red wheel") == 1
    assert segmenter.choose_mask(picture, three, "red blue", "blue") == 1
    with pytest.raises(ValueError, match=r"text\[0\]"):
        segmenter.choose_mask(picture, three, "  ")
    with pytest.raises(TypeError, match=r"text\[0\]"):
        segmenter.choose_mask(picture, three, None)
    with pytest.raises(ValueError, match="expected a CLIP"):
        SamTextSegmenter(plain).choose_mask(picture, three, "hub")


def test_without_a_way_the_message_says_how_to_give_one(plain, image):
    segmenter = SamTextSegmenter(plain)
    with pytest.raises(ValueError, match=r'no text branch; give a CLIP, such as "ViT-B-16'):
        segmenter.segment(image, "cup")
    with pytest.raises(ValueError, match=r"needs a checkpoint with a text branch.*give a CLIP"):
        segmenter.segment(image, "cup", grounding="learned")
    for name in ("dense", "proposals"):
        with pytest.raises(ValueError, match="clip: expected a CLIP, such as"):
            segmenter.segment(image, "cup", grounding=name)
    with pytest.raises(ValueError, match='"detector" needs a detector'):
        segmenter.segment(image, "cup", grounding="detector")


# --- what is refused, and odd phrases ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"text": []}, ValueError, "text: expected at least one phrase"),
        ({"text": "  "}, ValueError, r"text\[0\]: expected a phrase"),
        ({"text": ["cup", "\x00"]}, ValueError, r"text\[1\]: expected a phrase"),
        ({"text": "\ud800"}, ValueError, r"text\[0\]: expected Unicode"),
        ({"text": 3}, TypeError, "text: expected a phrase or a list of phrases, got 3"),
        ({"text": None}, TypeError, "text: expected a phrase or a list of phrases, got None"),
        ({"text": b"cup"}, TypeError, "text: expected a phrase or a list of phrases"),
        ({"text": ["cup", None]}, TypeError, r"text\[1\]: expected a string"),
        ({"text": "the left"}, ValueError, "says where, but not what"),
        ({"negative_text": [""]}, ValueError, r"negative_text\[0\]: expected a phrase"),
        ({"negative_text": [1]}, TypeError, r"negative_text\[0\]: expected a string"),
        ({"negative_text": "the left"}, ValueError, "negative_text: 'the left' says where, but not what"),
        (
            {"points": [[[1, 2]]]},
            ValueError,
            r"points: .* \[point\]\[x, y\], 2 levels, got 3",
        ),
        ({"labels": [1]}, ValueError, "labels: given without points"),
        ({"points": [[1, 1], [2, 2]], "labels": [1]}, ValueError, "labels.*expected 2 labels"),
        ({"points": [[1, 1]], "labels": [5]}, ValueError, "labels.*expected labels 1"),
        ({"points": [[1, float("nan")]]}, ValueError, "points.*finite"),
        ({"points": [[1, 2, 3]]}, ValueError, "points.*expected 2 coordinates"),
        ({"box": [1, 2, 3]}, ValueError, "boxes.*expected 4 coordinates"),
        ({"box": [30, 2, 3, 9]}, ValueError, "boxes.*x1 <= x2"),
        ({"mask_input": np.ones((3, 3), dtype=bool)}, ValueError, "mask_input.*expected the size"),
        ({"instances": "two"}, ValueError, "instances: expected one of auto, one, all"),
        ({"grounding": "magic"}, ValueError, "grounding: expected 'auto' or one of learned"),
        ({"grounding": 3}, TypeError, "grounding: expected a string or a Grounding"),
        ({"image": np.zeros((2, 2, 2, 2, 2))}, ValueError, "image"),
    ],
)
def test_wrong_arguments_are_named(plain, image, given, error, message):
    segmenter = SamTextSegmenter(plain)
    with pytest.raises(error, match=message):
        segmenter.segment(**({"image": image, "text": "cup", "grounding": Rectangles({})} | given))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"predictor": None}, TypeError),
        ({"max_proposals": 0}, ValueError),
        ({"calibration": "nowhere"}, OSError),
        ({"dense": {"smothing": 1}}, TypeError),
        ({"dense": {"relative": 3}}, ValueError),
        ({"proposals": {"points_per_site": 3}}, TypeError),
        ({"learned": {"place": 1}}, TypeError),
        ({"learned": {"places": "x"}}, TypeError),
        ({"learned": {"keep_share": "x"}}, TypeError),
        ({"dense": {"background": "sky"}}, TypeError),
        ({"dense": {"attention": "foo"}}, ValueError),
        ({"dense": {"size": -3}}, ValueError),
        ({"dense": {"size": "x"}}, TypeError),
        ({"dense": {"scale": -1}}, ValueError),
        ({"dense": {"max_regions": 2.5}}, TypeError),
        ({"dense": {"templates": ["no"]}}, ValueError),
        ({"proposals": {"views": "crop"}}, TypeError),
        ({"proposals": {"views": ["corp"]}}, ValueError),
        ({"proposals": {"background": [1]}}, TypeError),
        ({"clip": 5}, TypeError),
        ({"detector": 5}, TypeError),
        ({"calibration": 5}, TypeError),
    ],
)
def test_wrong_settings(plain, given, error):
    ((name, value),) = given.items()
    words = next(iter(value)) if isinstance(value, dict) else name
    words = {"points_per_site": "points_per_side"}.get(words, words)  # what was meant
    with pytest.raises(error, match=str(value) if value == "nowhere" else words):
        SamTextSegmenter(**({"predictor": plain} | given))


@pytest.mark.parametrize("phrase", ["🐱", "قطة حمراء", "tab\tand\x00NUL", "mug" * 30, "ǅ"])
def test_odd_phrases_have_answers(reading, image, phrase):
    segmenter = SamTextSegmenter(reading)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the long one is cut, with a warning
        answer = segmenter.segment(image, phrase)
    assert 0 <= answer.presence <= 1 and answer.grounding == "learned"
    for one in answer.instances + answer.refused:
        assert one.mask.shape == (40, 60) and one.mask.dtype == bool
