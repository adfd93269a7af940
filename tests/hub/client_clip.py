"""A client with this package: publishes the embedded checkpoint with its CLIP, and asks phrases of it from the Hub."""

from pathlib import Path

import numpy as np
from client_steps import ASKED, RESULTS, control, finish, step
from huggingface_hub import constants

import sam_hf
from sam_hf.hub.publishing import publish

PLACE = Path(ASKED["place"])
WRITER = {"token": "hf_writer"}
EMPTY = {"cache_dir": str(PLACE / "empty"), "token": "hf_reader"}
yy, xx = np.mgrid[:180, :240]
IMAGE = np.full((180, 240, 3), (225, 222, 214), dtype=np.uint8)
IMAGE[(yy - 90) ** 2 + (xx - 60) ** 2 < 36**2] = (214, 40, 40)


def answered(segmenter: sam_hf.SamTextSegmenter) -> dict:
    answer = segmenter.segment(IMAGE, "red circle")
    runs = np.flatnonzero(np.diff(np.pad(answer.instances[0].mask.ravel(), 1).astype(np.int8))).tolist()
    return {
        "mask": runs,
        "presence": answer.presence,
        "judged_by": answer.judged_by,
        "calibrated": answer.calibrated,
        "absent": segmenter.segment(IMAGE, "accordion").presence,
    }


@step
def pushed():
    return publish("tiny", "org/tiny", private=True, examples=False, **WRITER).files


@step
def embedded():
    return answered(sam_hf.SamTextSegmenter.from_pretrained("tiny", device="cpu"))


@step
def from_the_hub():
    control()
    segmenter = sam_hf.SamTextSegmenter.from_pretrained("org/tiny", device="cpu", **EMPTY)
    RESULTS["heard_before"] = control()["heard"]
    found = answered(segmenter)
    RESULTS["heard_after"] = control()["heard"]
    return found


@step
def from_a_predictor():
    predictor = sam_hf.SamPredictor.from_pretrained("org/tiny", device="cpu", **EMPTY)
    found = answered(sam_hf.SamTextSegmenter(predictor))
    RESULTS["heard_from_cache"] = control()["heard"]
    return found


@step
def names():
    generator = sam_hf.SamAutomaticMaskGenerator.from_pretrained("org/tiny", device="cpu", points_per_side=4, **EMPTY)
    records = generator.generate(IMAGE, text=["red circle", "blue square"])
    return sorted({record["label"] for record in records})


@step
def pushed_again_from_a_folder():
    folder = next((PLACE / "empty").glob("models--org--tiny/snapshots/*"))
    done = publish(folder, "org/again", examples=False, dry_run=True)
    (PLACE / "broken").mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (PLACE / "broken" / file.name).write_bytes(file.read_bytes())
    (PLACE / "broken" / "clip").mkdir()
    (PLACE / "broken" / "clip" / "open_clip_config.json").write_text("{}")
    return list(done.files)


@step
def without_the_weights_of_the_clip():
    publish(PLACE / "broken", "org/again", examples=False, dry_run=True)


control(stop=True)


@step
def stopped():
    return answered(sam_hf.SamTextSegmenter.from_pretrained("org/tiny", device="cpu", **EMPTY))


@step
def offline():
    constants.HF_HUB_OFFLINE = True
    return answered(sam_hf.SamTextSegmenter.from_pretrained("org/tiny", device="cpu", **EMPTY))


finish()
