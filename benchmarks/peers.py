"""The same weights in three packages: ours, transformers' SamModel and segment-anything's Sam.

No trained ViT-B can be had without the Hub, and the masks of random weights are noise, which teaches nothing about
everything mode. So `vit-b`, `vit-l` and `vit-h` here are a random ViT of the real size, whose time is real, and whose
answer is then replaced by the embedded checkpoint's at 512 px (a 64 x 64 map, as a ViT's at 1024 px), with the
embedded checkpoint's decoder widened to the real size. Widening copies channels so that every answer stays what it
was; cost, shapes and masks are then all real. The replacement costs each of the three the same few percent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import transformers
from meta_twin import VITS, meta_of
from segment_anything.modeling import Sam
from torch import Tensor, nn

from sam_hf import SamConfig, SamImageProcessor, SamModel, SamProcessor
from sam_hf.training.resolution import at_resolution

NAMES = ("tiny", *VITS)
CHANNELS = torch.cat([torch.arange(64).repeat(2), torch.arange(64, 128).repeat(2)])
"""Channel of the embedded checkpoint that each of the 256 channels copies; sines stay before cosines."""


@dataclass
class Peers:
    """One set of weights three times, in float32, in eval mode; `processor` prepares images for all."""

    ours: SamModel
    stock: transformers.SamModel
    meta: Sam
    processor: SamProcessor


def build(name: str) -> Peers:
    """Models of a name in `NAMES`."""
    tiny = SamModel.from_pretrained("tiny").eval()
    if name == "tiny":
        plain = _plain(tiny)
        meta = meta_of(plain, our_encoder=True, our_epsilon=True)
        return Peers(plain, stock_of(plain), meta, SamProcessor.from_pretrained("tiny"))
    ours = _widened(name, tiny)
    stock, meta = stock_of(ours), meta_of(ours, our_epsilon=True)
    real = at_resolution(tiny, 512).vision_encoder
    ours.vision_encoder = Realistic(ours.vision_encoder, real)
    stock.vision_encoder = Realistic(stock.vision_encoder, real)
    meta.image_encoder = Realistic(meta.image_encoder, real)
    return Peers(ours.eval(), stock.eval(), meta.eval(), SamProcessor(SamImageProcessor()))


def random_vit(name: str, seed: int = 0) -> SamModel:
    """A model of the real size with random weights, relative positions included."""
    torch.manual_seed(seed)
    model = SamModel(SamConfig(vision_config=VITS[name])).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "rel_pos" in key or "pos_embed" in key:
                weight.normal_(std=0.02)
    return model


class Realistic(nn.Module):
    """Takes the time of `vit` and gives the features of `real`, which was trained."""

    def __init__(self, vit: nn.Module, real: nn.Module):
        super().__init__()
        self.vit, self.real = vit, real
        self.img_size = 1024  # segment-anything asks its encoder

    def forward(self, pixel_values: Tensor, **options):
        answer = self.vit(pixel_values, **options)
        small = F.interpolate(pixel_values.float(), size=(512, 512), mode="bilinear", antialias=True)
        features = self.real(small)[0][:, CHANNELS]
        if isinstance(answer, Tensor):
            return features.to(answer.dtype)
        answer.last_hidden_state = features.to(answer.last_hidden_state.dtype)
        return answer


def _plain(tiny: SamModel) -> SamModel:
    """The embedded checkpoint without its text branch, which the peers do not have."""
    config = tiny.config.to_dict() | {"text_config": None}
    model = SamModel(SamConfig(**config))
    model.load_state_dict({k: v for k, v in tiny.state_dict().items() if "text_" not in k})
    return model.eval()


def _widened(name: str, tiny: SamModel) -> SamModel:
    """A model of the real size whose decoder and prompt encoder answer as the embedded checkpoint's do."""
    model = random_vit(name)
    source = tiny.state_dict()
    with torch.no_grad():
        for key, weight in model.state_dict().items():
            if not key.startswith("vision_encoder."):
                weight.copy_(_widen(key, source[key], weight.shape))
    return model


def _widen(key: str, weight: Tensor, shape: torch.Size) -> Tensor:
    """Copies channels up to `shape`; what reads several copies of a channel gets its weights divided among them."""
    transposed = "upscale_conv" in key and weight.ndim == 4  # (in, out, 2, 2)
    if transposed:
        weight, shape = weight.transpose(0, 1), torch.Size([shape[1], shape[0], *shape[2:]])
    looked_up = re.search(r"_embed\.weight|point_embed|iou_token|mask_tokens|positional", key)
    reads = weight.ndim in (2, 4) and not looked_up
    for dim in range(min(2, weight.ndim)):
        old, new = weight.shape[dim], shape[dim]
        if old == new:
            continue
        of_image = old == 128 and not re.search(r"self_attn\.(q|k|v)_proj", key) or dim == 1 and old == 128
        if re.search(r"self_attn\.out_proj\.weight", key) and dim == 1:
            of_image = False  # reads heads, which are copied whole
        copies = CHANNELS if of_image else torch.arange(old).repeat(new // old)
        weight = weight.index_select(dim, copies)
        if dim == 1 and reads:
            weight = weight / (new // old)
    if re.search(r"hypernetworks_mlps\.\d\.proj_out", key):  # multiplied with twice as many upscaled channels
        weight = weight / 2
    return weight.transpose(0, 1) if transposed else weight


def stock_of(model: SamModel) -> transformers.SamModel:
    """transformers' model with these weights, its attention fused ("sdpa")."""
    vision, decoder = model.config.vision_config, model.config.mask_decoder_config
    is_vit = vision.model_type == "sam_vision_model"
    sizes = {"image_size": vision.image_size, "patch_size": vision.image_size // _cells(model)}
    if is_vit:
        sizes = vision.to_dict()
    config = transformers.SamConfig(
        vision_config=sizes | {"num_pos_feats": vision.num_pos_feats, "output_channels": vision.output_channels},
        prompt_encoder_config=model.config.prompt_encoder_config.to_dict(),
        mask_decoder_config=decoder.to_dict(),
    )
    with torch.device("meta"):
        stock = transformers.SamModel(config)
    stock = stock.to_empty(device="cpu")
    if not is_vit:
        stock.vision_encoder = model.vision_encoder
    stock.load_state_dict(model.state_dict())
    stock.set_attn_implementation("sdpa")
    return stock.eval()


def _cells(model: SamModel) -> int:
    return model.config.prompt_encoder_config.image_embedding_size
