"""With this package, over HTTP: every way to load gives the same masks, and every fault says which repository."""

import pytest


def test_every_way_gives_the_same_masks(owner):
    masks = owner["same_masks"]
    for name in ("org/text", "org/pushed", "org/saved", "cache_dir"):
        assert masks[name] == masks["text, folder"], name
    assert masks["phrase, hub"] == masks["phrase, folder"] != masks["text, folder"]
    assert masks["org/plain"] == masks["plain, folder"] and masks["org/plain@refs/pr/1"] == masks["text, folder"]
    assert masks["org/plain@next"] == owner["other_branch"] != masks["plain, folder"]


def test_weights_in_shards_give_the_same_masks(owner, hub, compare):
    assert len([name for name in hub.files("org/beside") if name.startswith("model-")]) > 2
    assert "text and point" in compare(owner["answers"]["text"], owner["answers"]["beside"])
    fetched = [request for request in owner["shards_heard"] if request.startswith("GET /cdn/")]
    assert len(fetched) == len(set(fetched)) == len([n for n in hub.files("org/beside") if n.startswith("model-")])


@pytest.mark.parametrize("trust", ["None", "True"])
def test_the_package_goes_before_remote_code_and_stock_sam_stays_stock(owner, trust):
    ours = ("SamConfig", "SamModel", "SamModel", "SamHfProcessor", "SamHfImageProcessor")
    stock = ("SamConfig", "SamModel", "SamModel", "SamProcessor", "SamImageProcessor")
    autos = ("AutoConfig", "AutoModel", "AutoModelForMaskGeneration", "AutoProcessor", "AutoImageProcessor")
    for auto, our, theirs in zip(autos, ours, stock, strict=True):
        for name in ("org/text", "org/mobile"):
            assert owner["kinds"][f"{auto} {name} {trust}"] == f"sam_hf {our}"
        assert owner["kinds"][f"{auto} org/plain {trust}"] == f"transformers {theirs}"


def test_every_door_opens(owner):
    doors = owner["doors"]
    assert doors["pipeline org/text"] == ["sam_hf SamModel", True]
    assert doors["pipeline org/plain"] == ["transformers SamModel", True]
    assert doors["own pipeline"] == "sam_hf SamModel"
    for name in ("org/text", "org/plain"):
        assert doors[f"predictor {name}"] == [3, 48, 64]
        assert doors[f"generator {name}"] == "sam_hf SamAutomaticMaskGenerator"
    assert doors["segmenter org/text"] == "learned"
    assert "CLIP" in owner["text_of_a_plain_one"]["error"]


def test_dtype_and_device_map(owner):
    dtype, device, masks = owner["placed"]
    assert (dtype, device) == ("torch.bfloat16", "cpu")
    assert masks == owner["same_masks"]["text, folder"]


@pytest.mark.parametrize(
    ("step", "repo_id"),
    [
        ("missing_repository", "org/nothing"),
        ("missing_revision", "org/text"),
        ("private_without_token", "org/saved"),
        ("gated", "org/pushed"),
        ("not_cached_and_local_only", "org/pushed"),
        ("half_download", "org/text"),
        ("half_download_local_only", "org/text"),
        ("hanging_uncached", "org/text"),
        ("stopped_uncached", "org/text"),
        ("stopped_uncached_processor", "org/text"),
    ],
)
def test_what_cannot_be_loaded_is_an_oserror_with_the_repository(owner, step, repo_id):
    assert repo_id in owner[step]["error"], owner[step]
    assert "OSError" in owner[step]["kinds"], owner[step]


def test_the_command_line_says_it_in_one_line(owner):
    code, out, err = owner["stopped_command"]
    assert code == 2 and out == ""
    assert "org/none" in err.splitlines()[-1] and "Traceback" not in err


def _asked(heard: list[str], what: str) -> list[str]:
    return [request for request in heard if what in request]


def test_the_hub_is_asked_once_which_commit_it_is(owner):
    heard, commit = owner["requests"], owner["text"]["url"].split("/")[-1]
    for door in ("model", "processor", "predictor"):
        first, again = heard[f"{door}, first"], heard[f"{door}, again"]
        assert again == ["GET /api/models/org/text"], door  # and no file is asked about
        assert _asked(first, "/api/") == ["GET /api/models/org/text"], door
        assert all(f"/resolve/{commit}/" in request for request in _asked(first, "/resolve/")), door
        assert len(set(first)) == len(first), door  # nothing two times
    for file in ("config.json", "model.safetensors"):
        assert _asked(heard["model, first"], f"{commit}/{file}")
    assert len(_asked(heard["model, first"], "GET /cdn/")) == 1
    assert heard["a commit"] == heard["local files only"] == []  # there is nothing to ask
    assert len(_asked(heard["AutoModel"], "/api/")) == 1


def test_a_hub_that_hangs_is_asked_once(owner):
    assert owner["heard_in_vain"] == ["GET /api/models/org/text"]
    assert owner["heard_in_vain_cached"] == ["GET /api/models/org/text"] * 2  # of the model and of the processor


def test_no_partial_file_is_ever_loaded(owner):
    assert owner["weights_after_half"] == []
    assert owner["half_download_goes_on"] == owner["same_masks"]["text, folder"]


def test_a_hub_that_hangs_is_not_waited_for(owner):
    assert owner["hanging_uncached"]["seconds"] < 25
    assert owner["hanging_cached"] == owner["same_masks"]["text, folder"]


def test_what_is_cached_needs_no_hub(owner):
    expected = owner["same_masks"]["text, folder"]
    assert owner["stopped_cached"] == {"model": expected, "auto": expected}
    assert owner["stopped_cached_doors"] == ["sam_hf SamPredictor", "learned"]
    assert owner["stopped_local_only"] == owner["other_branch"]
    assert owner["offline"] == expected
