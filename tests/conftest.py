"""Checkpoints for tests: tiny, random, made once per run, never fetched."""

import os

# Before transformers is imported anywhere: a test that would need the Hub has to fail at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # threads would only get into the way of the other processes
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

IMAGE_SIZE = 64
# Tests of these files share what is costly to begin: a server and a browser, a server, a Hub and its clients.
TOGETHER = {
    "browser": "tests/ui/test_browser",
    "app": "tests/ui/",
    "hub": (
        "tests/hub/test_clip_beside",
        "tests/hub/test_loading",
        "tests/hub/test_publishing",
        "tests/hub/test_remote",
    ),
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """In several processes, a file's tests run in one of them, and so do those of `TOGETHER`; the longest begin."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return next((name for name, files in TOGETHER.items() if file.startswith(files)), file)

    return Scheduling(config, log)


def _save_checkpoint(folder, text: bool):
    import torch

    from sam_hf import SamConfig, SamImageProcessor, SamModel, SamProcessor

    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
        "output_channels": 16,
        "num_pos_feats": 8,
        "window_size": 4,
        "global_attn_indexes": [1],
    }
    tower = {"embed_dim": 8, "context_length": 16, "vocab_size": 1000, "width": 16, "heads": 2, "layers": 1}
    config = SamConfig(
        vision_config=vision,
        mask_decoder_config={"mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
        text_config=tower if text else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SamModel(config)
    side, low_side = IMAGE_SIZE, IMAGE_SIZE // 2
    images = SamImageProcessor(
        size={"longest_edge": side},
        pad_size={"height": side, "width": side},
        mask_size={"longest_edge": low_side},
        mask_pad_size={"height": low_side, "width": low_side},
    )
    model.save_pretrained(folder)
    SamProcessor(images, text_config=config.text_config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def plain_checkpoint(tmp_path_factory):
    """Folder of a random plain SAM (model_type "sam"), input 64 px, low-resolution masks 32 px."""
    return _save_checkpoint(tmp_path_factory.mktemp("plain-sam"), text=False)


@pytest.fixture(scope="session")
def text_checkpoint(tmp_path_factory):
    """Folder of the same with a random text branch (model_type "sam_hf")."""
    return _save_checkpoint(tmp_path_factory.mktemp("text-sam"), text=True)
