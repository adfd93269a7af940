"""Text to mask: what is counted, what is timed, and that nobody gains by another's work."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sam_hf.data.text_samples import TextSample
from sam_hf.evaluation import text_command
from sam_hf.evaluation.text_data import open_pictures
from sam_hf.evaluation.text_scores import (
    PhraseRecord,
    PictureTimes,
    operating_point,
    resampled,
    summarise_phrases,
    summarise_times,
)
from sam_hf.evaluation.text_to_mask import Contender, evaluate_text
from sam_hf.evaluation.text_variants import fit_calibration, read_option, variants
from sam_hf.hub.text_result_tables import format_text_results
from sam_hf.inference.text.instances import TextAnswer
from sam_hf.inference.text.verdict import Calibration
from sam_hf.model.text_prompts import UnreadablePhrase
from sam_hf.training import clip as small_clip


def _bar(left, right):
    mask = np.zeros((20, 40), bool)
    mask[5:15, left:right] = True
    return mask


LEFT, RIGHT = _bar(2, 12), _bar(20, 30)
KNOWN = {"left bar": [LEFT], "right bar": [RIGHT], "bars": [LEFT, RIGHT]}


def _samples(image_id=0):
    image = np.full((20, 40, 3), 60 + image_id, np.uint8)

    def sample(phrase, masks, group="seen"):
        return TextSample(phrase, image_id, not masks, group, None, lambda: image, lambda: masks)

    named = [sample(phrase, masks, "all" if len(masks) > 1 else "one") for phrase, masks in KNOWN.items()]
    return [*named, sample("star", []), sample("cat", [])]


class Knowing:
    """A segmenter that knows the phrases; half of every mask without a click, and `cat` is seen everywhere."""

    has_text_branch = False

    def __init__(self, share=0.5, threshold=0.0):
        self.share, self.threshold, self.calibration = share, threshold, Calibration()
        self.asked, self.encoded = [], []
        self.predictor = SimpleNamespace(encode=self._encode, decode=self._decode)

    def _encode(self, image):
        self.encoded.append(image.tobytes())
        return "embedding"

    def _decode(self, embedding, points, labels):
        assert embedding == "embedding" and labels.tolist() == [1]
        x, y = points[0].astype(int)
        hit = next(mask for mask in (LEFT, RIGHT) if mask[y, x])
        return SimpleNamespace(masks=np.stack([~hit, hit & _bar(0, 25)]), scores=np.array([0.1, 0.9]))

    def grounding(self, name):
        return SimpleNamespace(name=name)

    def segment(self, image, text, points=None, labels=None, grounding="auto", instances="auto"):
        if not isinstance(text, str):
            return [self.segment(image, phrase, points, labels, grounding, instances) for phrase in text]
        if text in ("left", "far right"):
            raise UnreadablePhrase(f"text: {text!r} says where, but not what")
        self.asked.append((text, grounding, instances, image.tobytes()))
        masks = KNOWN.get(text, [np.ones((20, 40), bool)])
        if points is None:
            masks = [mask & _bar(0, 7) | mask & _bar(20, 25) for mask in masks] if self.share == 0.5 else masks
        found = [SimpleNamespace(mask=mask) for mask in masks]
        evidence = {"star": -math.inf, "cat": 0.5, "bars": -0.5}.get(text, 2.0)
        absent = evidence < self.threshold
        seen = [] if evidence == -math.inf else found
        presence = 1 / (1 + math.exp(-evidence)) if seen else 0.0
        way = "dense" if grounding == "auto" else grounding
        shown, hidden = ([], seen) if absent else (seen, [])
        return TextAnswer(text, shown, presence, absent, way, refused=hidden, evidence=evidence)


@pytest.fixture
def results():
    half, whole = Knowing(), Knowing(share=1)
    contenders = [Contender("auto", half, "auto"), Contender("learned", whole, "learned")]
    return evaluate_text(contenders, [_samples(0), _samples(1)], instances="all", progress=False)


def test_unions_are_compared_verdict_aside_and_after_it(results):
    half, whole = (results["rows"][label]["masks"] for label in ("auto", "learned"))
    assert half["mean_iou"]["mean"] == pytest.approx(0.5) and half["ciou"]["mean"] == pytest.approx(0.5)
    assert half["precision_0.5"]["mean"] == 0 and whole["precision_0.9"]["mean"] == 1
    assert whole["mean_iou"] == {"mean": 1.0, "stderr": 0.0, "ci95": [1.0, 1.0], "n": 6}
    assert whole["mean_iou_after_verdict"]["mean"] == pytest.approx(2 / 3)  # "bars" are refused
    assert results["rows"]["learned"]["groups"]["all"]["n"] == 2
    counts = {"pictures": 2, "present": 6, "absent": 4, "instances": 8, "without_a_mask": 0, "problems": 0}
    assert results["counts"] == counts | {"unreadable_phrases": 0}
    assert results["rows"]["auto"]["ways"] == {"dense": 10}


def test_phrases_that_name_one_thing_are_asked_with_a_click(results):
    means = results["rows"]["auto"]["interaction"]
    assert [means[name]["mean"] for name in ("text", "click", "text_click")] == pytest.approx([0.5, 0.75, 1.0])
    assert means["text_click"]["n"] == 4
    silent = evaluate_text([Contender("a", Knowing(), "dense")], [_samples()], clicks=False, progress=False)
    assert silent["rows"]["a"]["interaction"] is None
    assert "Phrase against phrase + click: not measured." in format_text_results(silent)


def test_absent_phrases(results):
    absent = results["rows"]["auto"]["absent"]
    # evidence: present 2, 2, -0.5 per picture; absent 0.5 and nothing at all
    assert absent["auroc"]["mean"] == pytest.approx((2 + 2 + 1) / 6)
    assert absent["threshold"] == -0.5 and absent["kept"]["mean"] == 1 and absent["false_alarms"]["mean"] == 0.5
    assert absent["verdict_kept"]["mean"] == pytest.approx(2 / 3)
    assert absent["verdict_false_alarms"]["mean"] == 0.5


def test_where_too_little_is_found_the_point_says_so():
    assert operating_point([1, 2, 3, 4, 5], [0, 1.5, 2.5, 9], keep=0.8) == {
        "threshold": 2.0,
        "kept": 0.8,
        "false_alarms": 0.5,
    }
    point = operating_point([1, -np.inf, -np.inf], [-np.inf, 0.5], keep=0.8)
    assert point == {"threshold": 1.0, "kept": pytest.approx(1 / 3), "false_alarms": 0.0}
    assert operating_point([-np.inf], [0.0]) is None and operating_point([1.0], []) is None
    with pytest.raises(ValueError, match="keep: expected a share"):
        operating_point([1.0], [0.0], keep=0)


def _record(picture, way, evidence, presence, absent=False, iou=1.0):
    return PhraseRecord(picture, "g", absent, way, evidence, presence, False, 1, 1, int(100 * iou), 100)


def test_two_groundings_are_compared_by_probability():
    mixed = [_record(0, "dense", 9.0, 0.6), _record(1, "proposals", -1.0, 0.7), _record(2, "dense", 8.0, 0.1, True)]
    assert summarise_phrases(mixed)["absent"]["auroc"]["mean"] == 1.0
    alone = [_record(0, "dense", 9.0, 1.0), _record(1, "dense", 60.0, 1.0), _record(2, "dense", 50.0, 1.0, True)]
    assert summarise_phrases(alone)["absent"]["auroc"]["mean"] == 0.5  # presence alone would call it a tie of all
    assert summarise_phrases(alone[:2])["absent"] is None


def test_error_bars_are_of_pictures():
    values, pictures = np.array([0.0] * 50 + [1.0] * 50), np.repeat([0, 1], 50)
    narrow = resampled(lambda rows: float(values[rows].mean()), np.arange(100))
    wide = resampled(lambda rows: float(values[rows].mean()), pictures)
    assert narrow["mean"] == wide["mean"] == 0.5 and wide["stderr"] > 4 * narrow["stderr"]
    assert resampled(lambda rows: 1.0, np.zeros(3))["stderr"] is None
    assert resampled(lambda rows: None, pictures) is None


def test_times_are_multiples_of_an_encoding(results):
    times = [PictureTimes(0.2, (0.4, 0.02, 0.04)), PictureTimes(0.1, (0.2, 0.06))]
    assert summarise_times(times) == {
        "first_phrase": pytest.approx(2.0),
        "further_phrase": pytest.approx(0.04 / 0.15),
        "pictures": 2,
    }
    assert summarise_times([PictureTimes(math.nan, (1.0,))]) is None
    assert summarise_times([PictureTimes(0.1, (0.1,))])["further_phrase"] is None
    assert results["rows"]["auto"]["time"]["pictures"] == 2


def test_no_contender_finds_anothers_work_done():
    shared = Knowing()
    contenders = [Contender(name, shared, name) for name in ("learned", "dense", "proposals")]
    evaluate_text(contenders, [_samples()], progress=False)
    assert len(set(shared.encoded)) == 3
    assert {
        way: len({image for _, name, _, image in shared.asked if name == way}) for way in ("learned", "dense")
    } == {
        "learned": 1,  # the same copy all the time: further phrases shall find their picture encoded
        "dense": 1,
    }
    first, last = (np.frombuffer(shared.encoded[index], np.uint8).astype(int) for index in (0, 2))
    assert np.abs(first - last).max() == 1


def test_a_segmenter_without_a_predictor_is_measured_without_its_encoding():
    bare = Knowing()
    del bare.predictor
    row = evaluate_text([Contender("a", bare, "dense")], [_samples()], progress=False)["rows"]["a"]
    assert row["time"] is None and row["absent"]["n_absent"] == 2
    assert row["interaction"]["text_click"]["mean"] == 1.0


def test_what_cannot_be_evaluated_is_refused():
    one = Contender("a", Knowing(), "dense")
    with pytest.raises(ValueError, match="contenders: expected one or more with different labels"):
        evaluate_text([one, one], [_samples()], progress=False)
    nothing = TextSample("bar", 0, False, "g", None, lambda: np.zeros((20, 40, 3), np.uint8), lambda: [LEFT & False])
    with pytest.raises(ValueError, match="pictures: expected at least one phrase"):
        evaluate_text([one], [[nothing]], progress=False)
    mixed = evaluate_text([one], [[nothing, *_samples()]], progress=False)
    assert mixed["counts"]["without_a_mask"] == 1 and mixed["counts"]["present"] == 3
    assert "no picture or mask to judge them by: 1." in format_text_results(mixed)


def test_what_cannot_be_read_is_passed_over_and_counted(capsys):
    def broken():
        raise ValueError("picture 3: mask 0: not a polygon")

    def lost(sample):
        return replace(sample, open_picture=broken)

    one = Contender("a", Knowing(), "dense")
    undrawable = replace(_samples()[0], draw_masks=broken)
    pictures = [[undrawable, *_samples()], [lost(sample) for sample in _samples(1)], _samples(2)]
    counts = evaluate_text([one], pictures, progress=False)["counts"]
    assert counts["pictures"] == 2 and counts["present"] == 6
    assert counts["problems"] == 2 and counts["without_a_mask"] == 6
    assert "passed over: picture 3: mask 0" in capsys.readouterr().err


def test_a_phrase_that_cannot_be_read_counts_as_answered_by_nothing():
    samples = [replace(_samples()[0], phrase="left"), *_samples(), replace(_samples()[-1], phrase="far right")]
    contenders = [Contender(name, Knowing(share=1), name) for name in ("dense", "learned")]
    found = evaluate_text(contenders, [samples], instances="all", progress=False)
    assert found["counts"]["unreadable_phrases"] == 2
    assert found["counts"]["present"] == 4 and found["counts"]["absent"] == 3
    row = found["rows"]["dense"]
    assert row["masks"]["mean_iou"]["mean"] == pytest.approx(3 / 4)
    assert row["masks"]["ciou"]["mean"] == pytest.approx(4 / 5)  # five bars of one size, one of them not found
    assert row["absent"]["verdict_kept"]["mean"] == pytest.approx(2 / 4)  # and "bars" are refused
    assert row["absent"]["verdict_false_alarms"]["mean"] == pytest.approx(1 / 3)
    assert row["absent"]["threshold"] == -0.5  # still on the grounding's own scale
    assert row["interaction"]["text"]["n"] == 2 and row["ways"] == {"dense": 5}
    table = format_text_results(found)
    assert 'Phrases that could not be read, such as a bare "left": 2;' in table and "answered by" not in table
    json.dumps(found, allow_nan=False)
    nothing = evaluate_text(contenders, [samples[:1]], progress=False)
    assert nothing["rows"]["dense"]["masks"]["mean_iou"]["mean"] == 0
    assert "answered by" not in format_text_results(nothing)


def test_a_grounding_that_cannot_be_had_is_no_unreadable_phrase():
    class Lacking(Knowing):
        def grounding(self, name):
            raise ValueError(f"grounding: {name!r} needs a CLIP")

    with pytest.raises(ValueError, match="needs a CLIP"):
        evaluate_text([Contender("a", Lacking(), "dense")], [_samples()], progress=False)


@pytest.mark.parametrize("message", ["views: expected some of crop, dimmed", "attention: expected one of nacl"])
def test_a_wrong_option_is_no_unreadable_phrase(message):
    class Wrong(Knowing):
        def segment(self, image, text, **more):
            if text == "bars":
                raise ValueError(message)
            return super().segment(image, text, **more)

    samples = [replace(_samples()[0], phrase="left"), *_samples()]
    with pytest.raises(ValueError, match=message):
        evaluate_text([Contender("a", Wrong(), "dense")], [samples], progress=False)


def test_a_contender_may_say_itself_what_it_cannot_read():
    class Picky(Knowing):
        def segment(self, image, text, **more):
            if text == "star":
                raise UnreadablePhrase("text: expected something else than a star")
            return super().segment(image, text, **more)

    samples = [*_samples(), replace(_samples()[-1], phrase="left")]
    found = evaluate_text([Contender("a", Picky(), "dense")], [samples], progress=False)
    assert found["counts"]["unreadable_phrases"] == 2 and found["rows"]["a"]["ways"] == {"dense": 4}


def test_a_calibration_passes_over_what_cannot_be_read(capsys):
    def broken():
        raise ValueError("picture 3 is no picture")

    samples = [replace(_samples()[0], phrase="left"), *_samples()]
    lost = [replace(sample, open_picture=broken) for sample in _samples()]
    fitted = fit_calibration(Knowing(), [lost, samples, samples[:1]], ["dense"], keep=0.6, progress=False)
    assert fitted.curves == fit_calibration(Knowing(), [_samples()], ["dense"], keep=0.6, progress=False).curves
    said = capsys.readouterr().err
    assert said.count("text: 'left' says where") == 2 and said.count("picture 3 is no picture") == 1


def test_the_tables_show_every_row(results):
    table = format_text_results(results)
    lines = table.splitlines()
    assert sum(line.startswith("| learned ") for line in lines) == 5
    assert "1.000 ±0.000" in table and "auto answered by dense (10)." in table and "AUROC" in table
    json.dumps(results, allow_nan=False)


def test_the_verdict_is_fitted_to_the_evidence(tmp_path):
    segmenter = Knowing()
    kept = Calibration()
    kept.fit("other", [1.0], [0.0])
    segmenter.calibration = kept
    calibration = fit_calibration(segmenter, [_samples(0), _samples(1)], ["dense"], keep=0.6, progress=False)
    curve = calibration.curve("dense")
    assert curve.threshold == 2.0 and curve.kept == pytest.approx(2 / 3) and curve.refused == 1.0
    path = calibration.save(tmp_path / "mine.json")
    assert Calibration.load(path).curves == calibration.curves and "other" in calibration
    with pytest.raises(ValueError, match="grounding: expected the ways themselves"):
        fit_calibration(segmenter, [_samples()], ["auto"], progress=False)


def test_variants_differ_in_one_option():
    made = []

    def make(options):
        made.append(options)
        return Knowing()

    contenders = variants("attention", make, options={"dense": {"size": 64}, "proposals": {"also": 0.3}})
    assert contenders[0].label == "nacl" and all(one.grounding == "dense" for one in contenders)
    assert [options["dense"]["attention"] for options in made] == [one.label for one in contenders]
    assert all(options["dense"]["size"] == 64 and options["proposals"] == {"also": 0.3} for options in made)
    assert {one.grounding for one in variants("views", make, grounding="dense")} == {"dense"}
    with pytest.raises(ValueError, match="ablate: expected one of"):
        variants("colour", make)
    for choice, ways in {"alignment": "learned", "places": "learned", "views": "dense or proposals"}.items():
        with pytest.raises(ValueError, match=f"grounding: expected {ways} to compare {choice} of, got 'auto'"):
            variants(choice, make, grounding="auto")
    del made[:]
    assert "paper" in variants("places", make)[-1].label  # the paper knows neither places nor an alignment
    assert made[-1] == {"learned": {"places": 0, "alignment": False}}
    assert read_option('dense.views=["crop"]') == ("dense", "views", ["crop"])
    assert read_option("dense.attention=plain") == ("dense", "attention", "plain")
    with pytest.raises(ValueError, match="option: expected GROUNDING.NAME=VALUE"):
        read_option("views=crop")


def test_pictures_are_drawn_by_seed(tmp_path):
    tasks = [{"image_id": n, "phrase": f"cup {n}", "Polygons": [[[[1, 1], [5, 1], [5, 5]]]]} for n in range(9)]
    tasks.append({"image_id": 3, "phrase": " ", "Polygons": []})
    (tmp_path / "images").mkdir()
    (tmp_path / "refer_test.json").write_text(json.dumps(tasks))
    sizes = [{"image_id": n, "width": 8, "height": 8} for n in range(9)]
    (tmp_path / "image_data_split.json").write_text(json.dumps(sizes))
    with pytest.raises(ValueError, match="images: 4 of 4 pictures do not exist"):
        open_pictures("phrasecut", tmp_path, limit=4)
    for n in range(9):
        (tmp_path / "images" / f"{n}.jpg").write_bytes(b"")
    chosen = [open_pictures("phrasecut", tmp_path, limit=4, seed=seed) for seed in (0, 0, 1)]
    drawn = [[samples[0].image_id for samples in pictures.phrases] for pictures in chosen]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 4
    assert chosen[0].facts["blank_phrases"] == 1 and chosen[0].facts["pictures_in_split"] == 9
    assert "may be there all the same" in chosen[0].facts["absent_phrases"]
    with pytest.raises(ValueError, match="root: expected the folder of lvis"):
        open_pictures("lvis")
    with pytest.raises(ValueError, match="data: expected one of"):
        open_pictures("coco")


@pytest.mark.filterwarnings("ignore:text:UserWarning")  # this checkpoint reads 14 tokens
def test_the_command_on_a_checkpoint(text_checkpoint, tmp_path, capsys):
    output, fitted = tmp_path / "results.json", tmp_path / "calibration.json"
    common = ["--model", str(text_checkpoint), "--shapes-only", "--limit", "2", "--size", "64", "--device", "cpu"]
    assert text_command.main([*common, "--calibrate", str(fitted)]) == 0
    assert list(Calibration.load(fitted).curves) == ["learned"]
    arguments = [*common, "--grounding", "learned", "auto", "--calibration", str(fitted), "--output", str(output)]
    assert text_command.main([*arguments, "--option", "learned.max_instances=2"]) == 0
    assert "| learned |" in capsys.readouterr().out
    results = json.loads(output.read_text())
    assert set(results["rows"]) == {"learned", "auto"}
    means = [results["rows"][name]["masks"]["mean_iou"]["mean"] for name in ("auto", "learned")]
    assert means[0] == pytest.approx(means[1], abs=0.05)  # the same way, on copies that differ in one bit
    assert results["rows"]["learned"]["time"]["first_phrase"] > 0
    setup = results["setup"]
    assert setup["split"] == "test" and setup["seed"] == 0 and len(setup["fingerprint"]) == 64
    assert setup["options"] == {"learned": {"max_instances": 2}}
    assert str(tmp_path) not in output.read_text() and str(text_checkpoint.parent) not in output.read_text()
    with pytest.raises(ValueError, match="calibrate: fits on the train split alone"):
        text_command.main([*common, "--calibrate", str(fitted), "--split", "test"])
    with pytest.raises(ValueError, match="option: .*unknown_option"):
        text_command.main([*common, "--option", "learned.unknown_option=1"])
    for way in ("auto", "dense"):
        with pytest.raises(ValueError, match="grounding: expected learned to compare alignment of"):
            text_command.main([*common, "--ablate", "alignment", "--grounding", way])


@pytest.mark.filterwarnings("ignore::UserWarning")  # these read few tokens
def test_the_command_knows_the_clip_of_auto(text_checkpoint, tmp_path):
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    tower = {"context_length": 32, "vocab_size": 600, "width": 16, "heads": 2, "layers": 1}
    sizes = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": tower}
    folder = small_clip.save_clip(small_clip.build_clip(sizes), tmp_path / "small-clip")
    older, fitted, output = tmp_path / "older.json", tmp_path / "calibration.json", tmp_path / "results.json"
    older.write_text(json.dumps({name: {"slope": 1, "offset": 0, "threshold": 9} for name in ("learned", "other")}))
    common = ["--model", str(text_checkpoint), "--clip", str(folder), "--shapes-only", "--limit", "2", "--size", "64"]
    common += ["--device", "cpu", "--no-clicks"]
    assert text_command.main([*common, "--calibration", str(older), "--calibrate", str(fitted)]) == 0
    curves = Calibration.load(fitted).curves
    assert [name.partition("-clip")[0] for name in sorted(curves)] == ["learned", "learned/small", "other"]
    assert curves["learned"].threshold != 9 and curves["other"].threshold == 9
    assert text_command.main([*common, "--calibration", str(fitted), "--output", str(output)]) == 0
    (name,) = json.loads(output.read_text())["setup"]["clip"]
    assert name.endswith("small-clip") and str(tmp_path) not in name
