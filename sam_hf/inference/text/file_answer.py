"""One image file and one phrase in; an overlay of all instances, their masks and a JSON record with the verdict out.

The overlay tints every instance, the mask picture is white where any of them is, the cut-out shows them alone. Nothing
found: the overlay is the picture, the mask black, the record says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sam_hf.inference.image_files import open_image, open_mask
from sam_hf.inference.result_files import encode_json, encode_png, picture_places, write_together
from sam_hf.inference.text.instances import TextAnswer, TextInstance
from sam_hf.inference.text.segmenter import SamTextSegmenter
from sam_hf.inference.typed_prompts import TypedPrompts
from sam_hf.masks import drawing, rle
from sam_hf.masks.boxes import mask_to_xywh
from sam_hf.model.image_loading import as_bytes, load_image_tensor


def answer_file(
    segmenter: SamTextSegmenter,
    path: Path,
    prompts: TypedPrompts,
    folder: Path,
    name: str,
    negative_text: Sequence[str] = (),
    grounding: str = "auto",
    model_name: str = "",
    report: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Answers a phrase about one image file and writes the results.

    Args:
        segmenter: Does the work.
        path: The image.
        prompts: The phrase, and geometry for the one thing that it is about.
        folder: Existing folder for the results.
        name: On which the names of the results build.
        negative_text: Phrases of what is not meant.
        grounding: See `SamTextSegmenter.segment`.
        model_name: For the record.
        report: Is told what is being done.

    Returns:
        What went into the JSON file.

    Raises:
        ValueError: If the image or the mask cannot be used, or a prompt is wrong.
        OSError: If the results cannot be written.
    """
    report("reading")
    image = open_image(path)
    pixels = as_bytes(load_image_tensor(image, where=f"the image {str(path)!r}"))
    picture = pixels.permute(1, 2, 0).numpy()  # (3,H,W) -> (H,W,3)
    rough = None
    if prompts.mask is not None:
        rough = open_mask(prompts.mask)
        if rough.shape != picture.shape[:2]:
            raise ValueError(
                f"the mask {prompts.mask!r} is {rough.shape[1]} x {rough.shape[0]} pixels, the image {str(path)!r} "
                f"{picture.shape[1]} x {picture.shape[0]}: they must be of one size"
            )
    report("looking")
    answer = segmenter.segment(
        image,
        prompts.text,
        negative_text,
        points=prompts.coordinates,
        labels=prompts.labels,
        box=prompts.box,
        mask_input=rough,
        grounding=grounding,
    )
    report("writing")
    places = picture_places(folder, name)
    result = {
        "image": str(path),
        "width": picture.shape[1],
        "height": picture.shape[0],
        "model": model_name,
        "model_revision": segmenter.predictor.revision,
        "prompts": asdict(prompts) | {"negative_text": list(negative_text)},
        "grounding": answer.grounding,
        "judged_by": answer.judged_by,
        "presence": round(answer.presence, 6),
        "absent": answer.absent,
        "calibrated": answer.calibrated,
        "overlay": places[0].name,
        "mask": places[1].name,
        "cutout": places[2].name,
        "masks": [_record(one) for one in answer.instances],
    }
    contents = dict(zip(places, _pictures(picture, answer, prompts), strict=True))
    contents[folder / f"{name}.json"] = encode_json(result)  # last: where it stands the pictures do too
    write_together(contents)
    return result


def _pictures(picture: np.ndarray, answer: TextAnswer, prompts: TypedPrompts) -> list[bytes]:
    masks = [one.mask for one in answer.instances]
    union = np.logical_or.reduce(masks) if masks else np.zeros(picture.shape[:2], dtype=bool)
    box = None if prompts.box is None else np.array(prompts.box)
    overlay = drawing.draw_prompts(drawing.overlay(picture, masks), prompts.coordinates, prompts.labels, box)
    return [encode_png(overlay), encode_png(union * np.uint8(255)), encode_png(drawing.cut_out(picture, union))]


def _record(instance: TextInstance) -> dict[str, Any]:
    probability = instance.text_probability
    return {
        "segmentation": rle.encode(instance.mask),
        "area": instance.area,
        "bbox": mask_to_xywh(instance.mask).tolist(),
        "score": round(instance.score, 6),
        "text_probability": None if probability is None else round(probability, 6),
        "predicted_iou": round(instance.predicted_iou, 6),
        "stability_score": round(instance.stability, 6),
    }
