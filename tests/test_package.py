"""The package as others see it: its names, and what it does and does not register with transformers."""

import subprocess
import sys

import numpy as np
import pytest
import transformers

import sam_hf


def test_all_is_sorted_complete_and_loads():
    assert sam_hf.__all__ == sorted(set(sam_hf.__all__))
    for name in sam_hf.__all__:
        assert getattr(sam_hf, name) is not None


def test_stock_sam_stays_stock(plain_checkpoint):
    assert type(transformers.AutoConfig.for_model("sam")) is transformers.SamConfig
    assert type(transformers.AutoConfig.from_pretrained(plain_checkpoint)) is transformers.SamConfig
    for auto in (transformers.AutoModel, transformers.AutoModelForMaskGeneration):
        assert type(auto.from_pretrained(plain_checkpoint)) is transformers.SamModel
    assert type(transformers.AutoProcessor.from_pretrained(plain_checkpoint)) is transformers.SamProcessor
    processor = transformers.AutoImageProcessor.from_pretrained(plain_checkpoint)
    assert type(processor) is transformers.SamImageProcessor


def test_checkpoints_with_text_load_as_ours(text_checkpoint):
    assert type(transformers.AutoConfig.from_pretrained(text_checkpoint)) is sam_hf.SamConfig
    for auto in (transformers.AutoModel, transformers.AutoModelForMaskGeneration):
        assert type(auto.from_pretrained(text_checkpoint)) is sam_hf.SamModel
    processor = transformers.AutoProcessor.from_pretrained(text_checkpoint)
    assert isinstance(processor, sam_hf.SamProcessor)
    encoded = processor(np.zeros((8, 8, 3), dtype=np.uint8), text="red mug", return_tensors="pt")
    assert "input_ids" in encoded
    images = transformers.AutoImageProcessor.from_pretrained(text_checkpoint)
    assert isinstance(images, sam_hf.SamImageProcessor)


def test_registering_twice_is_harmless_and_overriding_is_for_those_who_ask(plain_checkpoint):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    sam_hf.register()
    assert type(transformers.AutoModel.from_pretrained(plain_checkpoint)) is transformers.SamModel
    try:
        sam_hf.register(override_sam=True)
        assert type(transformers.AutoModel.from_pretrained(plain_checkpoint)) is sam_hf.SamModel
        assert type(transformers.SamModel.from_pretrained(plain_checkpoint)) is transformers.SamModel
    finally:
        CONFIG_MAPPING._extra_content.pop("sam")
    assert type(transformers.AutoModel.from_pretrained(plain_checkpoint)) is transformers.SamModel


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import sam_hf; from transformers import AutoModel, AutoProcessor",
        "from transformers import AutoModel, AutoProcessor; import sam_hf",
        "from sam_hf import SamProcessor; from transformers import AutoModel, AutoProcessor",
        "import sam_hf.model.modeling_sam; from transformers import pipeline, AutoModel, AutoProcessor",
    ],
)
def test_any_order_of_imports(text_checkpoint, imports):
    code = (
        f"{imports}\nfolder = {str(text_checkpoint)!r}\n"
        "assert type(AutoModel.from_pretrained(folder)).__module__.startswith('sam_hf.')\n"
        "assert type(AutoProcessor.from_pretrained(folder)).__module__.startswith('sam_hf.')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
