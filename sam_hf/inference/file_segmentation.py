"""One image file and one set of prompts in; overlay, masks, cut-outs and a JSON record out.

The overlay shows the mask tinted and outlined and the prompts, the mask picture is white inside and black outside, the
cut-out is the object alone, cropped, with transparency. `result_files` says how they are called.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sam_hf.inference.image_files import open_image, open_mask
from sam_hf.inference.predictor import SamPredictor
from sam_hf.inference.result_files import encode_json, encode_png, picture_places, result_bases, write_together
from sam_hf.inference.typed_prompts import TypedPrompts
from sam_hf.masks import drawing, rle
from sam_hf.masks.boxes import mask_to_xywh
from sam_hf.model.image_loading import as_bytes, load_image_tensor


def segment_file(
    predictor: SamPredictor,
    path: Path,
    prompts: TypedPrompts,
    folder: Path,
    name: str,
    several: bool = False,
    model_name: str = "",
    report: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Segments one image file and writes the results.

    Args:
        predictor: Does the work.
        path: The image.
        prompts: What to look for; at least one.
        folder: Existing folder for the results.
        name: On which the names of the results build.
        several: Write all three masks that the model proposes. Otherwise one: for a single prompt, which may mean the
            whole or a part, the best of three by predicted IoU; for several, the model's single-mask answer.
        model_name: For the record.
        report: Is told what is being done.

    Returns:
        What went into the JSON file.

    Raises:
        ValueError: If the image or the mask cannot be used.
        OSError: If the results cannot be written.
    """
    report("reading")
    image = open_image(path)
    pixels = as_bytes(load_image_tensor(image, where=f"the image {str(path)!r}"))
    picture = pixels.permute(1, 2, 0).numpy()  # (3,H,W) -> (H,W,3)
    report("encoding")
    embedding = predictor.encode(image)
    rough = None
    if prompts.mask is not None:
        rough = open_mask(prompts.mask)
        if rough.shape != embedding.original_size:
            raise ValueError(
                f"the mask {prompts.mask!r} is {rough.shape[1]} x {rough.shape[0]} pixels, the image {str(path)!r} "
                f"{embedding.original_size[1]} x {embedding.original_size[0]}: they must be of one size"
            )
    report("decoding")
    masks, scores, _ = predictor.decode(
        embedding,
        points=prompts.coordinates,
        labels=prompts.labels,
        box=prompts.box,
        mask_input=rough,
        text=prompts.text,
        multimask_output=several or len(prompts) == 1,
    )
    order = np.argsort(-scores, kind="stable")[: None if several else 1]
    report("writing")
    contents: dict[Path, bytes] = {}
    records = []
    for index, base in zip(order, result_bases(name, several), strict=True):
        places = picture_places(folder, base)
        contents |= dict(zip(places, _pictures(picture, masks[index], prompts), strict=True))
        records.append(_record(masks[index], float(scores[index]), places))
    result = {
        "image": str(path),
        "width": embedding.original_size[1],
        "height": embedding.original_size[0],
        "model": model_name,
        "model_revision": embedding.revision,
        "prompts": asdict(prompts),
        "masks": records,
    }
    # Last, so that where the JSON stands the pictures do too.
    contents[folder / f"{name}.json"] = encode_json(result)
    write_together(contents)
    return result


def _pictures(picture: np.ndarray, mask: np.ndarray, prompts: TypedPrompts) -> list[bytes]:
    tinted = drawing.overlay(picture, [mask])
    box = None if prompts.box is None else np.array(prompts.box)
    overlay = drawing.draw_prompts(tinted, prompts.coordinates, prompts.labels, box)
    return [encode_png(overlay), encode_png(mask * np.uint8(255)), encode_png(drawing.cut_out(picture, mask))]


def _record(mask: np.ndarray, score: float, places: list[Path]) -> dict[str, Any]:
    overlay, mask_file, cutout = (place.name for place in places)
    return {
        "segmentation": rle.encode(mask),
        "area": int(mask.sum()),
        "bbox": mask_to_xywh(mask).tolist(),
        "predicted_iou": round(score, 6),
        "overlay": overlay,
        "mask": mask_file,
        "cutout": cutout,
    }
