"""One CLIP vector per patch instead of one per picture: where in a picture a phrase is.

CLIP is trained on one pooled vector, so its last block is free to gather the whole picture in any token, and the plain
tokens of that block do not say what lies where they are. All remedies here replace the attention of that block by one
that stays near the token: a token's own value, or the tokens whose queries, keys or values are like its own.

A tower of open_clip comes in two kinds. `VisionTransformer`: every attention below. `ModifiedResNet`: its attention
pool is the only attention there is, "plain" takes each position's own answer of that pool, and all others are the same
thing, the value projection of each position. Other towers (timm, ConvNeXt, SigLIP, attentional pools) have no such
block and are refused.

Source: MaskCLIP (arXiv 2112.01071), SCLIP (2312.01597), NACLIP (2404.08181), CLIP Surgery (2304.05653); see the
functions for what differs.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTIONS = ("plain", "value", "self", "nacl", "surgery")
SIGMA = 5.0  # of NACLIP's window, in patches
SURGERY_BLOCKS = 6


def dense_features(visual: nn.Module, images: Tensor, attention: str = "nacl", sigma: float = SIGMA) -> Tensor:
    """Features of every patch in CLIP's joint space.

    Args:
        visual: Image tower of an open_clip model, in eval mode.
        images: (n,3,H,W) normalised, any H and W; enlarged to whole patches if they are not.
        attention: What the last block does.
            "plain": what it was trained to do.
            "value": each token keeps its value (MaskCLIP).
            "self": query-query plus key-key attention (SCLIP).
            "nacl": key-key attention with a Gaussian window around the token, without residual and MLP (NACLIP).
            "surgery": value-value attention without MLP, in a second stream beside the last six blocks (CLIP
                Surgery).
        sigma: Width of that window in patches; only "nacl" has one.

    Returns:
        (n,D,h,w), not normalised, in the tower's dtype.

    Raises:
        ValueError: If the attention is unknown, the tower of another kind, or the images have another shape.
    """
    from open_clip.modified_resnet import ModifiedResNet

    if attention not in ATTENTIONS:
        raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}; got {attention!r}")
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (n, 3, H, W), got {tuple(images.shape)}")
    rows, columns = patch_size(visual)
    height, width = images.shape[-2:]
    whole = (math.ceil(height / rows) * rows, math.ceil(width / columns) * columns)
    if whole != (height, width):
        images = F.interpolate(images, whole, mode="bilinear", align_corners=False)
    if isinstance(visual, ModifiedResNet):
        return _resnet_features(visual, images, attention)
    return _transformer_features(visual, images, attention, sigma)


def patch_size(visual: nn.Module) -> tuple[int, int]:
    """(H,W) of what one vector of `dense_features` stands for, pixels.

    Raises:
        ValueError: If the tower has no dense features.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    if isinstance(visual, ModifiedResNet):
        return 32, 32
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.transformer.batch_first:
        return tuple(visual.patch_size)
    raise ValueError(
        "dense features need an open_clip VisionTransformer without attentional pool, such as ViT-B-16, or a "
        f"ModifiedResNet, such as RN50; got {type(visual).__name__}"
    )


def dense_size(picture_size: tuple[int, int], size: int, patch: tuple[int, int]) -> tuple[int, int]:
    """(H,W) in whole patches for a picture (H,W): its aspect, and about size x size pixels whatever that aspect is."""
    height, width = picture_size
    scale = size / math.sqrt(height * width)
    at_most = max(1, size // patch[0]) * max(1, size // patch[1])
    rows = min(max(1, round(height * scale / patch[0])), at_most)
    columns = min(max(1, round(width * scale / patch[1])), max(1, round(at_most / rows)))
    return rows * patch[0], columns * patch[1]


def gaussian_window(grid: tuple[int, int], sigma: float = SIGMA) -> Tensor:
    """exp(-d^2 / (2 sigma^2)) of every two patches of a grid (h,w), d their distance in patches: (hw,hw) float32."""
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in grid), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1)  # (hw,2)
    return torch.exp(-(torch.cdist(places, places) ** 2) / (2 * sigma**2))


def resize_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Positional embedding (1+hw,C) of a grid for another grid, bicubic; the first row, the class token's, stays."""
    if old == new:
        return positions
    grid = positions[1:].float().T.unflatten(1, old)[None]  # (1,C,h,w)
    grid = F.interpolate(grid, new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], grid[0].flatten(1).T.to(positions.dtype)])


def _transformer_features(visual: Any, images: Tensor, attention: str, sigma: float) -> Tensor:
    patches = visual.conv1(images)  # (n,C,h,w)
    grid = tuple(patches.shape[-2:])
    first = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)  # (n,1+hw,C)
    positions = resize_positions(visual.positional_embedding, visual.grid_size, grid)
    tokens = visual.ln_pre(tokens + positions.to(tokens.dtype))
    blocks = list(visual.transformer.resblocks)
    if attention == "surgery":
        tokens = _surgery(blocks, tokens)
    else:
        for block in blocks[:-1]:
            tokens = block(tokens)
        tokens = _last_block(blocks[-1], tokens, attention, grid, sigma)
    tokens = visual.ln_post(tokens[:, 1:])
    if visual.proj is not None:
        tokens = tokens @ visual.proj
    return tokens.transpose(1, 2).unflatten(2, grid)  # (n,D,h,w)


def _last_block(block: Any, tokens: Tensor, attention: str, grid: tuple[int, int], sigma: float) -> Tensor:
    """(n,1+hw,C) -> (n,1+hw,C); the class token, which nobody looks at again, may come out as anything.

    Differs in: with "nacl", patches attend to patches only. The published code lets them see the class token too,
    which knows nothing of where it is.
    """
    if attention == "plain":
        return block(tokens)
    queries, keys, values = _project(block, tokens)
    if attention == "nacl":
        window = gaussian_window(grid, sigma).to(keys)
        mixed = _attend(keys[:, :, 1:], keys[:, :, 1:], values[:, :, 1:], window)
        return F.pad(_leave(block, mixed), (0, 0, 1, 0))
    if attention == "self":
        values = _attend(queries, queries, values) + _attend(keys, keys, values)
    tokens = tokens + _leave(block, values)
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


def _surgery(blocks: list[Any], tokens: Tensor) -> Tensor:
    """The second stream (n,1+hw,C), which gathers what value-value attention reads from the first, undisturbed one.

    Differs in: a tower with fewer than twelve blocks gets the second stream in its later half.
    """
    start = len(blocks) - max(1, min(SURGERY_BLOCKS, len(blocks) // 2))
    for block in blocks[:start]:
        tokens = block(tokens)
    second = tokens
    for block in blocks[start:]:
        values = _project(block, tokens)[2]
        second = second + _leave(block, _attend(values, values, values))
        tokens = block(tokens)
    return second


def _project(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a block, (n,heads,T,d) each; both kinds of open_clip's attention."""
    attention = block.attn
    joint = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    queries, keys, values = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in joint.chunk(3, dim=-1)
    )
    if not isinstance(attention, nn.MultiheadAttention):  # open_clip's own, with its options
        queries, keys = attention.ln_q(queries), attention.ln_k(keys)
    return queries, keys, values


def _attend(queries: Tensor, keys: Tensor, values: Tensor, window: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=window)


def _leave(block: Any, mixed: Tensor) -> Tensor:
    """What the attention of a block adds to its tokens: (n,heads,T,d) -> (n,T,C)."""
    attention = block.attn
    own = not isinstance(attention, nn.MultiheadAttention)
    if own and attention.head_scale is not None:
        mixed = mixed * attention.head_scale
    mixed = mixed.transpose(1, 2).flatten(2)
    out = attention.out_proj(attention.ln_inner(mixed) if own else mixed)
    return block.ls_1(block.ln_attn(out) if own else out)


def _resnet_features(visual: Any, images: Tensor, attention: str) -> Tensor:
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))  # (n,C,h,w)
    grid = tuple(features.shape[-2:])
    pool = visual.attnpool
    tokens = features.flatten(2).transpose(1, 2)  # (n,hw,C)
    tokens = pool_tokens(pool, tokens, grid)[:, 1:] if attention == "plain" else pool.c_proj(pool.v_proj(tokens))
    return tokens.transpose(1, 2).unflatten(2, grid)  # (n,D,h,w)


def pool_tokens(pool: Any, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """open_clip's `AttentionPool2d` with every position as a query: (n,hw,C) -> (n,1+hw,D), its usual answer first."""
    side = math.isqrt(len(pool.positional_embedding) - 1)
    positions = resize_positions(pool.positional_embedding, (side, side), grid)
    tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + positions.to(tokens.dtype)
    queries, keys, values = (
        projection(tokens).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for projection in (pool.q_proj, pool.k_proj, pool.v_proj)
    )
    return pool.c_proj(_attend(queries, keys, values).transpose(1, 2).flatten(2))
