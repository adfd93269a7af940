"""A client with this package: publishes, loads what it published, and meets every fault of the stand-in."""

import contextlib
import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import torch
from client_steps import ASKED, IMAGE, RESULTS, answers_of, control, finish, kind, masks_of, step
from huggingface_hub import constants
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForMaskGeneration, AutoProcessor

import sam_hf
from sam_hf.cli import main
from sam_hf.hub.publishing import publish

TEXT, PLAIN, MOBILE, PLACE = ASKED["text"], ASKED["plain"], ASKED["mobile"], Path(ASKED["place"])
WRITER = {"token": "hf_writer"}


def command(*words):
    """Exit code and output of `sam-hf`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as end:
            return end.code, out.getvalue(), err.getvalue()


def digest(name, **options):
    return masks_of(
        sam_hf.SamModel.from_pretrained(name, **options), sam_hf.SamProcessor.from_pretrained(name, **options)
    )


# --- publish -----------------------------------------------------------------------------------------------------


@step
def dry_run():
    done = publish(TEXT, "org/never", dry_run=True)
    return {"files": list(done.files), "repos": list(control()["files"])}


@step
def no_token():
    publish(PLAIN, "org/plain", examples=False, token=False)


@step
def read_token():
    publish(PLAIN, "org/plain", examples=False, token="hf_reader")


@step
def text():
    done = publish(TEXT, "org/text", **WRITER)
    return {"files": list(done.files), "sizes": list(done.files.values()), "url": done.commit_url, "pr": done.pr_url}


@step
def mobile():
    return list(publish(MOBILE, "org/mobile", examples=False, **WRITER).files)


@step
def text_again():
    return publish(TEXT, "org/text", **WRITER).commit_url


@step
def plain_by_command():
    return command("push", PLAIN, "org/plain", "--token", "hf_writer", "--no-examples")


@step
def commands():
    def push(*words):
        return command("push", PLAIN, "org/commanded", "--token", "hf_writer", "--no-examples", *words)

    found = {"dry run": push("--dry-run"), "repositories": list(control()["files"])}
    found["private"] = push("--private", "--license", "mit")
    found["branch"] = push("--revision", "next", "--message", "On a branch")
    found["pull request"] = push("--create-pr")
    found["pull request goes on"] = push("--revision", "refs/pr/1")
    found["pull request on a branch"] = push("--create-pr", "--revision", "next")
    found["without a token"] = command("push", PLAIN, "org/commanded")
    return found


@step
def not_private_any_more():
    publish(PLAIN, "org/plain", private=True, examples=False, **WRITER)


@step
def other_branch():
    model = sam_hf.SamModel.from_pretrained(PLAIN)
    with torch.no_grad():
        model.mask_decoder.iou_token.weight.add_(1.0)
    processor = sam_hf.SamProcessor.from_pretrained(PLAIN)
    publish(model, "org/plain", processor=processor, revision="next", examples=False, **WRITER)
    return masks_of(model, processor)


@step
def pull_request():
    return publish(TEXT, "org/plain", create_pr=True, examples=False, commit_message="Mine", **WRITER).pr_url


@step
def pull_request_on_a_branch():
    publish(PLAIN, "org/plain", create_pr=True, revision="next", **WRITER)


@step
def transformers_way():
    model, processor = sam_hf.SamModel.from_pretrained(TEXT), sam_hf.SamProcessor.from_pretrained(TEXT)
    model.push_to_hub("org/pushed", **WRITER)
    processor.push_to_hub("org/pushed", **WRITER)
    model.save_pretrained(PLACE / "saved", push_to_hub=True, repo_id="org/saved", private=True, **WRITER)
    processor.save_pretrained(PLACE / "saved", push_to_hub=True, repo_id="org/saved", **WRITER)
    return control()["files"]


@step
def own_card():
    """A model whose training has left something beside its weights, in shards, then in smaller ones, then changed."""
    folder = shutil.copytree(TEXT, PLACE / "beside")
    facts = {"kind": "text", "base_model": "facebook/sam-vit-base", "training_data": "12 pictures"}
    (folder / "training.json").write_text(json.dumps(facts))
    (folder / "text_calibration.json").write_text("{}")
    model = sam_hf.SamModel.from_pretrained(folder)
    heard = []
    for size in ("60KB", "30KB"):
        control()
        model.push_to_hub("org/beside", max_shard_size=size, tags=["mine"], commit_message=size, **WRITER)
        heard.append([request for request in control()["heard"] if "/commit/" in request])
    with torch.no_grad():
        model.mask_decoder.iou_token.weight.add_(1.0)
    model.push_to_hub("org/changed", **WRITER)
    sam_hf.SamProcessor.from_pretrained(folder).push_to_hub("org/beside", **WRITER)
    model.push_to_hub("org/beside", revision="changed", max_shard_size="1GB", **WRITER)
    sam_hf.SamVisionModel.from_pretrained(PLAIN).push_to_hub("org/vision", **WRITER)
    return heard


@step
def interrupted():
    model = sam_hf.SamModel.from_pretrained(PLAIN)
    model.save_pretrained(PLACE / "shards", max_shard_size="40KB")
    sam_hf.SamProcessor.from_pretrained(PLAIN).save_pretrained(PLACE / "shards")
    shards = sorted((PLACE / "shards").glob("*.safetensors"))
    RESULTS["shards"] = [hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards]
    # Another test may have sent the same weights; what the Hub has is not sent again.
    control(faults={"status": {f"PUT {RESULTS['shards'][-1]}": 400}}, forget=RESULTS["shards"])
    publish(PLACE / "shards", "org/plain", examples=False, **WRITER)


control(faults={})
RESULTS["plain_after_interruption"] = control()["files"]["org/plain"]


@step
def resumed():
    done = publish(PLACE / "shards", "org/plain", examples=False, **WRITER)
    RESULTS["resumed_removed"] = done.removed
    return control()["files"]["org/plain"]


# --- load --------------------------------------------------------------------------------------------------------


@step
def same_masks():
    model = sam_hf.SamModel.from_pretrained(TEXT)
    processor = sam_hf.SamProcessor.from_pretrained(TEXT)
    answers = {"text, folder": masks_of(model, processor), "plain, folder": digest(PLAIN)}
    answers["phrase, folder"] = masks_of(model, processor, text="red mug")
    model, processor = AutoModel.from_pretrained("org/text"), AutoProcessor.from_pretrained("org/text")
    answers["phrase, hub"] = masks_of(model, processor, text="red mug")
    for name in ("org/text", "org/pushed", "org/plain"):
        answers[name] = digest(name)
    answers["org/saved"] = digest("org/saved", **WRITER)
    answers["org/plain@next"] = digest("org/plain", revision="next")
    answers["org/plain@refs/pr/1"] = digest("org/plain", revision="refs/pr/1")
    answers["cache_dir"] = digest("org/text", cache_dir=str(PLACE / "elsewhere"))
    return answers


@step
def answers():
    found = {}
    for name, without in (("text", ()), ("mobile", ("text",))):
        model = sam_hf.SamModel.from_pretrained(ASKED[name])
        found[name] = answers_of(model, sam_hf.SamProcessor.from_pretrained(ASKED[name]), name, *without)
    control()
    model = sam_hf.SamModel.from_pretrained("org/beside", cache_dir=str(PLACE / "in_shards"))
    RESULTS["shards_heard"] = control()["heard"]
    found["beside"] = answers_of(model, sam_hf.SamProcessor.from_pretrained("org/beside"), "beside")
    return found


@step
def requests():
    """What the stand-in hears while a checkpoint is loaded into an empty cache, and again from there."""
    heard, options = {}, {"cache_dir": str(PLACE / "counted")}
    doors = {"model": sam_hf.SamModel, "processor": sam_hf.SamProcessor, "predictor": sam_hf.SamPredictor}
    control()
    for when in ("first", "again"):
        for name, door in doors.items():
            door.from_pretrained("org/text", **options)
            heard[f"{name}, {when}"] = control()["heard"]
    sam_hf.SamModel.from_pretrained("org/text", revision=control()["commits"]["org/text"], **options)
    heard["a commit"] = control()["heard"]
    sam_hf.SamModel.from_pretrained("org/text", local_files_only=True, **options)
    heard["local files only"] = control()["heard"]
    for name, door in {"AutoModel": AutoModel, "AutoProcessor": AutoProcessor}.items():
        door.from_pretrained("org/text", **options)
        heard[name] = control()["heard"]
    return heard


@step
def kinds():
    found = {}
    for auto in (AutoConfig, AutoModel, AutoModelForMaskGeneration, AutoProcessor, AutoImageProcessor):
        for name in ("org/text", "org/mobile", "org/plain"):
            for trust in (None, True):
                loaded = auto.from_pretrained(name, trust_remote_code=trust)
                found[f"{auto.__name__} {name} {trust}"] = kind(loaded)
    return found


@step
def doors():
    from transformers import pipeline

    everything = {"points_per_batch": 32, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0}
    found = {}
    for name in ("org/text", "org/plain"):
        pipe = pipeline("mask-generation", name)
        found[f"pipeline {name}"] = [kind(pipe.model), len(pipe(Image.fromarray(IMAGE), **everything)["masks"]) > 0]
        predictor = sam_hf.SamPredictor.from_pretrained(name)
        found[f"predictor {name}"] = predictor.decode(predictor.encode(IMAGE), points=[[20, 20]]).masks.shape
        generator = sam_hf.SamAutomaticMaskGenerator.from_pretrained(name, points_per_side=2, pred_iou_thresh=0.0)
        found[f"generator {name}"] = kind(generator)
    segmenter = sam_hf.SamTextSegmenter.from_pretrained("org/text")
    found["segmenter org/text"] = segmenter.segment(IMAGE, "red mug").grounding
    found["own pipeline"] = kind(sam_hf.pipeline("mask-generation", "org/plain").model)
    return found


@step
def text_of_a_plain_one():
    sam_hf.SamTextSegmenter.from_pretrained("org/plain").segment(IMAGE, "red mug")


@step
def placed():
    half = sam_hf.SamModel.from_pretrained("org/text", dtype=torch.bfloat16)
    auto = sam_hf.SamModel.from_pretrained("org/text", device_map="auto")
    return [str(half.dtype), str(auto.device), masks_of(auto, sam_hf.SamProcessor.from_pretrained("org/text"))]


@step
def missing_repository():
    sam_hf.SamModel.from_pretrained("org/nothing", **WRITER)


@step
def missing_revision():
    sam_hf.SamModel.from_pretrained("org/text", revision="nowhere")


@step
def private_without_token():
    sam_hf.SamPredictor.from_pretrained("org/saved", token=False, cache_dir=str(PLACE / "nobody"))


@step
def gated():
    control(repos={"org/pushed": {"gated": "auto"}})
    sam_hf.SamModel.from_pretrained("org/pushed", token=False, cache_dir=str(PLACE / "nobody"))


@step
def not_cached_and_local_only():
    sam_hf.SamModel.from_pretrained("org/pushed", local_files_only=True, cache_dir=str(PLACE / "empty"))


def weights_in(cache):
    return sorted(
        path.stat().st_size for path in Path(cache).rglob("*") if path.is_file() and path.name.endswith(".safetensors")
    )


@step
def half_download():
    control(faults={"cut": {"model.safetensors": 1000}})
    sam_hf.SamModel.from_pretrained("org/text", cache_dir=str(PLACE / "half"))


RESULTS["weights_after_half"] = weights_in(PLACE / "half")


@step
def half_download_local_only():
    sam_hf.SamModel.from_pretrained("org/text", cache_dir=str(PLACE / "half"), local_files_only=True)


@step
def half_download_goes_on():
    size = os.path.getsize(Path(TEXT) / "model.safetensors")
    constants.DOWNLOAD_CHUNK_SIZE = 4096  # what has arrived is kept by the chunk
    control(faults={"cut": {"model.safetensors": size // 2 + 1}})  # the second request brings the rest
    return digest("org/text", cache_dir=str(PLACE / "half"))


@step
def hanging_uncached():
    control(faults={"hang": 30})
    sam_hf.SamModel.from_pretrained("org/text", cache_dir=str(PLACE / "hanging"))


RESULTS["heard_in_vain"] = control()["heard"]


@step
def hanging_cached():
    return digest("org/text")


RESULTS["heard_in_vain_cached"] = control()["heard"]


control(faults={}, stop=True)


@step
def stopped_cached():
    # Not AutoProcessor: transformers asks for chat templates six times, with pauses, before it gives up.
    processor = sam_hf.SamProcessor.from_pretrained("org/text")
    return {"model": digest("org/text"), "auto": masks_of(AutoModel.from_pretrained("org/text"), processor)}


@step
def stopped_cached_doors():
    predictor = sam_hf.SamPredictor.from_pretrained("org/text")
    segmenter = sam_hf.SamTextSegmenter.from_pretrained("org/text")
    return [kind(predictor), segmenter.segment(IMAGE, "red mug").grounding]


@step
def stopped_local_only():
    return digest("org/plain", revision="next", local_files_only=True)


@step
def stopped_uncached():
    sam_hf.SamModel.from_pretrained("org/text", cache_dir=str(PLACE / "stopped"))


@step
def stopped_uncached_processor():
    sam_hf.SamProcessor.from_pretrained("org/text", cache_dir=str(PLACE / "stopped"))


@step
def stopped_command():
    Image.fromarray(IMAGE).save(PLACE / "image.png")
    return command(
        "segment", str(PLACE / "image.png"), "--point", "20,20", "--model", "org/none", "--out", str(PLACE / "out")
    )


@step
def stopped_publish():
    publish(PLAIN, "org/plain", examples=False, **WRITER)


@step
def offline():
    constants.HF_HUB_OFFLINE = True
    return digest("org/text")


finish()
