"""A client without this package, with or without open_clip: stock transformers and the code beside the weights."""

import contextlib
import io
import json
import logging
import tempfile
from pathlib import Path

import torch
import transformers
from client_steps import ASKED, IMAGE, answers_of, finish, kind, masks_of, step
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForMaskGeneration, AutoProcessor, pipeline

TRUST = {"trust_remote_code": True}
EVERYTHING = {"points_per_batch": 32, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0}
AUTOS = (AutoConfig, AutoModel, AutoModelForMaskGeneration, AutoProcessor, AutoImageProcessor)


@step
def kinds():
    found = {}
    for name in ("org/text", "org/mobile"):
        found[name] = {auto.__name__: kind(auto.from_pretrained(name, **TRUST)) for auto in AUTOS}
        found[name]["pil"] = kind(AutoImageProcessor.from_pretrained(name, backend="pil", **TRUST))
    return found


@step
def answers():
    found = {}
    for name in ("text", "mobile"):
        model = AutoModel.from_pretrained(f"org/{name}", **TRUST)
        processor = AutoProcessor.from_pretrained(f"org/{name}", **TRUST)
        without = ("text",) if name == "mobile" or "open_clip" in ASKED["blocked"] else ()
        found[name] = answers_of(model, processor, name, *without)
    return found


@step
def everything():
    pipe = pipeline("mask-generation", "org/text", **TRUST)
    return [kind(pipe.model), len(pipe(Image.fromarray(IMAGE), **EVERYTHING)["masks"]) > 0]


@step
def phrase():
    model, processor = (
        AutoModel.from_pretrained("org/text", **TRUST),
        AutoProcessor.from_pretrained("org/text", **TRUST),
    )
    masks_of(model, processor, text="red mug")


@step
def token_ids():
    model = AutoModel.from_pretrained("org/text", **TRUST)
    model(torch.zeros(1, 3, 64, 64), input_ids=torch.ones(1, 1, 4, dtype=torch.long))


@step
def saved_again():
    model, processor = (
        AutoModel.from_pretrained("org/text", **TRUST),
        AutoProcessor.from_pretrained("org/text", **TRUST),
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        names = sorted(path.name for path in Path(folder).iterdir())
        again = AutoModel.from_pretrained(folder, **TRUST)
        AutoProcessor.from_pretrained(folder, **TRUST)
        same = all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
        kept = json.loads(Path(folder, "config.json").read_text())["auto_map"]["AutoModel"]
    return {"names": names, "weights": len(model.state_dict()), "same": same, "auto_map": kept}


if not ASKED.get("short"):

    def _refused(load):
        try:
            return kind(load())
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    @step
    def untrusted():
        found = {auto.__name__: _refused(lambda auto=auto: auto.from_pretrained("org/text")) for auto in AUTOS}
        found["pipeline"] = _refused(lambda: pipeline("mask-generation", "org/text"))
        return found

    @step
    def plain():
        found = {auto.__name__: kind(auto.from_pretrained("org/plain")) for auto in AUTOS}
        pipe = pipeline("mask-generation", "org/plain")
        found["pipeline"] = kind(pipe.model)
        found["masks"] = masks_of(AutoModel.from_pretrained("org/plain"), AutoProcessor.from_pretrained("org/plain"))
        found["SamModel"] = kind(transformers.SamModel.from_pretrained("org/plain"))
        return found

    @step
    def stock_class_on_text():
        said = io.StringIO()
        handler = logging.StreamHandler(said)
        logging.getLogger("transformers").addHandler(handler)
        with contextlib.redirect_stderr(said):
            model = transformers.SamModel.from_pretrained("org/text")
        return {"kind": kind(model), "said": said.getvalue()}


finish()
