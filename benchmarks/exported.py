"""Exported files of decoder and encoder: sizes, what precision costs, and speed beside PyTorch.

    python benchmarks/exported.py [--model tiny vit-b] [--scenes 24] [--rounds 9] [--folder FOLDER] [--aoti]

Quality is IoU on held-out synthetic scenes, one click into each object: with the masks of PyTorch in float32, and with
the true outlines, of which the float32 masks miss some as well. `vit-b` is a decoder of the real size that gives the
embedded checkpoint's masks (peers.py); its encoder has random weights and is timed, with --encoder, and not judged.
Speed is the time of PyTorch on the same inputs over that of onnxruntime, with as many threads: our decoder, which is
faster than the peers', and transformers'. FOLDER keeps the files. --aoti adds the compiled encoder beside eager.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import peers
import timing
import torch
from torch.utils.flop_counter import FlopCounterMode

from sam_hf import SamModel
from sam_hf.data.synthetic import SceneGenerator
from sam_hf.hub.exported_parts import OnePieceDecoder, PerClick, PerImage
from sam_hf.hub.onnx_export import SUFFIXES, export_onnx
from sam_hf.hub.program_export import export_program, load_program

DECODERS = ("prompt_encoder_mask_decoder", "decoder_per_image", "decoder_per_click")
ASKED = {"decoder_per_image": "decoder_per_image and a click", "decoder_per_click": "decoder_per_click, further click"}
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["tiny", "vit-b"], choices=("tiny", "vit-b"))
    parser.add_argument("--dtype", nargs="+", default=list(SUFFIXES), choices=list(SUFFIXES))
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the files here, and use those that are there")
    parser.add_argument("--encoder", action="store_true", help="also vit-b's encoder: 4 GB and minutes")
    parser.add_argument("--aoti", action="store_true", help="also the embedded encoder compiled by AOTInductor")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.model:
            folder = (arguments.folder or Path(temporary)) / name
            measure(name, folder, arguments)
            if arguments.aoti and name == "tiny":
                compiled(folder, arguments)


def measure(name: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Export what is not there yet; sizes, quality and speed of every file."""
    built = peers.build(name)
    # What is exported is the encoder as it is: `Realistic` of peers.py only puts trained features in place of it.
    bare = SamModel.from_pretrained("tiny").eval() if name == "tiny" else _bare(built.ours)
    parts = [*DECODERS, "meta_decoder"]
    parts += ["text_encoder"] if name == "tiny" else []
    parts += ["vision_encoder"] if name == "tiny" or arguments.encoder else []
    missing = [part for part in parts if any(not _path(folder, part, dtype).exists() for dtype in arguments.dtype)]
    if missing:
        export_onnx(bare, folder, missing, arguments.dtype, overwrite=True)
    clicks = list(scene_clicks(built, arguments.scenes))
    full = [of_torch(built.ours, click) for click in clicks]
    truth = np.mean([iou(masks, click["truth"]) for masks, click in zip(full, clicks, strict=True)])
    print(f"{name}: IoU with the truth {truth:.4f} in PyTorch, float32, {len(clicks)} scenes")
    print(f"{name}: GFLOP of one click: {operations(bare, built)}")
    for dtype in arguments.dtype:
        for part in parts:
            size = f"{_path(folder, part, dtype).stat().st_size / MIB:.2f} MiB"
            if part == "vision_encoder" and name == "tiny":
                quality, speed = encoder(bare, built, folder, dtype, clicks, arguments)
            elif part in DECODERS:
                decode = decoder(folder, part, dtype, arguments.threads, bare)
                answers = [decode(click) for click in clicks]
                same = [iou(a, b) for a, b in zip(answers, full, strict=True)]
                true = [iou(a, click["truth"]) for a, click in zip(answers, clicks, strict=True)]
                quality = in_words(same, true)
                speed = against(built, decode, clicks[0], arguments.rounds)
            else:
                quality, speed = "", {"": ("", "")}
            for peer, (ratio, spread) in speed.items():
                timing.keep(
                    "exported", model=name, what=ASKED.get(part, part), dtype=dtype, batch=1, peer=peer,
                    ratio=ratio, spread=spread, rounds=arguments.rounds, quality=quality, note=size,
                )  # fmt: skip


@torch.no_grad()
def operations(bare: SamModel, built: peers.Peers) -> str:
    """Multiplications and additions of one point by each decoder, 2 per product of two numbers."""
    for model in (bare, built.stock):  # the counter wants either gradients or none
        model.requires_grad_(False)
    image, click, whole = PerImage(bare), PerClick(bare), OnePieceDecoder(bare)
    embedding, mask, none = image.examples()
    shared, point, label = image(embedding, mask, none), torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.long)
    text = () if click.text_width is None else (torch.zeros(1, click.text_width),)
    runs = {
        "as published": lambda: built.stock(image_embeddings=embedding, input_points=point[None]),
        "in one piece": lambda: whole(embedding, embedding, point[None], label[None]),
        "decoder_per_image": lambda: image(embedding, mask, none),
        "decoder_per_click": lambda: click(*shared, point, label, *text),
    }
    counted = []
    for what, run in runs.items():
        with FlopCounterMode(display=False) as counter:
            run()
        counted.append(f"{what} {counter.get_total_flops() / 1e9:.2f}")
    return ", ".join(counted)


def _bare(model: SamModel) -> SamModel:
    """Without `Realistic` around the encoder."""
    model.vision_encoder.vit.eval()
    bare = SamModel(model.config)
    weights = {
        key.replace("vision_encoder.vit.", "vision_encoder."): value for key, value in model.state_dict().items()
    }
    bare.load_state_dict({key: value for key, value in weights.items() if not key.startswith("vision_encoder.real.")})
    return bare.eval()


def _path(folder: Path, part: str, dtype: str) -> Path:
    return folder / f"{part}{SUFFIXES[dtype]}.onnx"


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def scene_clicks(built: peers.Peers, count: int) -> Iterator[dict[str, Any]]:
    """Embedding, one click into each object, and the objects' outlines at low resolution."""
    scenes = SceneGenerator(size=256, split="test", seed=0)
    side = built.ours.config.vision_config.image_size
    low = 4 * built.ours.config.prompt_encoder_config.image_embedding_size
    real = getattr(built.ours.vision_encoder, "real", None)
    for index in range(count):
        scene = scenes(index)
        pixels = built.processor(scene.image, return_tensors="pt")["pixel_values"]
        if real is None:
            embedding = built.ours.get_image_embeddings(pixels)
        else:  # the trained features alone: the random ViT around them would only take time here
            small = torch.nn.functional.interpolate(pixels, size=(512, 512), mode="bilinear", antialias=True)
            embedding = real(small)[0][:, peers.CHANNELS]
        points, truth = [], []
        for thing in scene.objects:
            inside = _middle(thing.mask)
            if inside is not None:
                points.append(inside)
                truth.append(thing.mask)
        scale = side / max(scene.image.shape[:2])
        xy = torch.tensor(points, dtype=torch.float32)[None, :, None] * scale
        outlines = torch.from_numpy(np.stack(truth)).float()[None]
        outlines = torch.nn.functional.interpolate(outlines, size=(low, low), mode="area")[0] > 0.5
        yield {"embedding": embedding, "points": xy, "truth": outlines.numpy(), "pixels": pixels}


def _middle(mask: np.ndarray) -> tuple[float, float] | None:
    """xy of the pixel that is farthest from the outline."""
    import cv2

    distance = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    if distance.max() < 2:
        return None
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return float(x) + 0.5, float(y) + 0.5


@torch.inference_mode()
def of_torch(model, click: dict[str, Any]) -> np.ndarray:
    """Best mask of each click, (P,4h,4w) bool."""
    output = model(image_embeddings=click["embedding"], input_points=click["points"])
    return best(output.iou_scores[0].numpy(), output.pred_masks[0].numpy())


def best(scores: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(P,3) and (P,3,4h,4w) -> the mask of the best score, (P,4h,4w) bool."""
    return masks[np.arange(len(masks)), scores.argmax(axis=1)] > 0


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over the masks of a scene."""
    union = (one | other).sum((1, 2))
    return float(np.mean(np.where(union > 0, (one & other).sum((1, 2)) / np.maximum(union, 1), 1.0)))


def in_words(same: list[float], true: list[float]) -> str:
    return f"IoU {np.mean(same):.4f} with float32, {np.mean(true):.4f} with the truth"


def decoder(folder: Path, part: str, dtype: str, threads: int, model: SamModel, running: Any = None):
    """decode(click): best masks by the decoder in one piece, by the split one, or by its click part alone.

    `running` may be another session for the file that has the click.
    """
    running = running or session(_path(folder, part if part == DECODERS[0] else "decoder_per_click", dtype), threads)

    def labels_of(points):
        return np.ones(points.shape[:-1], np.int64)

    if part == DECODERS[0]:
        positions = model.get_image_wide_positional_embeddings().detach().numpy()

        def one_piece(click):
            points = click["points"].numpy()
            feed = {"image_embeddings": click["embedding"].numpy(), "image_positional_embeddings": positions}
            scores, masks = running.run(None, feed | {"input_points": points, "input_labels": labels_of(points)})
            return best(scores[0], masks[0])

        return one_piece
    image = session(_path(folder, "decoder_per_image", dtype), threads)
    names = [value.name for value in image.get_outputs()]
    low = 4 * model.config.prompt_encoder_config.image_embedding_size
    none = {"mask_input": np.zeros((1, 1, low, low), np.float32), "has_mask_input": np.zeros(1, np.float32)}
    width = model.config.text_config.embed_dim if model.config.text_config is not None else None
    made: dict[int, dict[str, np.ndarray]] = {}

    def of_image(click):
        embedding = click["embedding"].numpy()
        embedding = embedding.astype(np.float16) if dtype == "float16" else embedding
        return dict(zip(names, image.run(None, none | {"image_embeddings": embedding}), strict=True))

    def split(click):
        key = id(click["embedding"])
        if part == "decoder_per_image" or key not in made:  # "per image": both, as for the first click
            made[key] = of_image(click)
        prepared = made[key]
        points = click["points"][0].numpy()
        feed = prepared | {"input_points": points, "input_labels": labels_of(points)}
        if width is not None:
            feed["text_embeds"] = np.zeros((len(points), width), np.float32)
        scores, masks = running.run(None, feed)
        return best(scores[:, 1:], masks[:, 1:])

    return split


def against(built: peers.Peers, decode, click: dict[str, Any], rounds: int) -> dict[str, tuple[float, float]]:
    """How many times faster one click is than in PyTorch, ours and transformers'."""
    one = click | {"points": click["points"][:, :1]}
    runs = {
        "onnx": lambda: decode(one),
        "ours": lambda: of_torch(built.ours, one),
        "transformers": lambda: of_torch(built.stock, one),
    }
    seconds = timing.alternate(runs, rounds)
    return {f"{peer} in PyTorch": timing.ratio(seconds, "onnx", peer) for peer in ("ours", "transformers")}


def encoder(bare, built, folder: Path, dtype: str, clicks, arguments) -> tuple[str, dict[str, tuple[float, float]]]:
    """The embedded checkpoint's encoder: masks of PyTorch's decoder on its embedding, and its speed."""
    running = session(_path(folder, "vision_encoder", dtype), arguments.threads)
    same, true = [], []
    for click in clicks:
        embedding = running.run(["image_embeddings"], {"pixel_values": click["pixels"].numpy()})[0]
        masks = of_torch(built.ours, click | {"embedding": torch.from_numpy(embedding)})
        same.append(iou(masks, of_torch(built.ours, click)))
        true.append(iou(masks, click["truth"]))
    pixels = clicks[0]["pixels"]
    with torch.inference_mode():
        runs = {
            "onnx": lambda: running.run(None, {"pixel_values": pixels.numpy()}),
            "ours": lambda: bare.get_image_embeddings(pixels),
        }
        seconds = timing.alternate(runs, arguments.rounds)
    return in_words(same, true), {"ours in PyTorch": timing.ratio(seconds, "onnx", "ours")}


@torch.inference_mode()
def compiled(folder: Path, arguments: argparse.Namespace) -> None:
    """The embedded encoder compiled ahead of time, beside the model and beside its exported program."""
    model = SamModel.from_pretrained("tiny").eval()
    runs = {"eager": model.get_image_embeddings}
    for kind in (False, True):
        path = folder / f"encoder_{'aoti' if kind else 'program'}.pt2"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            export_program(model, path, compiled=kind)
        runs["compiled" if kind else "program"] = load_program(path)
    pixels = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    truth = runs["eager"](pixels)
    seconds = timing.alternate({name: lambda run=run: run(pixels) for name, run in runs.items()}, arguments.rounds)
    for name in ("program", "compiled"):
        middle, spread = timing.ratio(seconds, name, "eager")
        deviation = float((runs[name](pixels)[0] - truth).abs().max() / (truth.max() - truth.min()))
        timing.keep(
            "exported", model="tiny", what=f"vision_encoder, {name} (.pt2)", dtype="float32", batch=1, peer="eager",
            ratio=middle, spread=spread, rounds=arguments.rounds, quality=f"deviation {deviation:.1e}",
        )  # fmt: skip


if __name__ == "__main__":
    main()
