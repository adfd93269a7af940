"""Points, labels, boxes and mask prompts: from what people write to tensors in resized pixels.

All prompts come in *original* pixels, nested image -> prompt -> ..., as lists, tuples, arrays, tensors (also with
gradient) or mixtures of these, and are ragged wherever they like. What is accepted, exactly:

* points ``[image][prompt][point][x, y]``; one level less, ``[image][point][x, y]``, is one prompt per image; for one
  image ``[point][x, y]`` will do. Points far outside the image are fine; beyond a million px they are cut to that.
* labels have the levels of the points less one: 1 foreground, 0 background, -1 not a point, -10 padding.
* boxes ``[image][prompt][x1, y1, x2, y2]``, also ``[image][prompt][1][4]``, for one image ``[prompt][4]``. A box
  without area is accepted, a reversed one refused. A box of four -10 is no box.
* masks ``[image][prompt](H,W)``: one array (H,W) or picture per prompt, or arrays with leading prompt (and channel 1)
  dimensions; see `mask_prompt_logits` for values and sizes.

None (or an empty list) in place of an image, or of a prompt, means that it has none. Images may differ in their number
of prompts; the kinds given for one image must agree on it. What is missing is filled up with what the model ignores:
points and boxes of -10 with label -10, masks of NaN.

Source: App. A "Prompt encoder"; transformers' `SamProcessor` for the nesting. Differs in that ragged input is padded
at every level, and input that cannot be meant is refused by name instead of giving a wrong mask.
"""

import math
import numbers
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .image_loading import is_pil_image, upright

PADDING = -10
LABELS = (-1, 0, 1, PADDING)
MASK_LOGIT = 10.0  # what a pixel of a binary mask becomes: about as sure as SAM's own masks are of theirs
FARTHEST = 1e6  # resized pixels; farther points would overflow half precision long before they meant anything else


def plain_lists(value: Any) -> Any:
    """Turn tuples, arrays and tensors at any level into new lists; the caller's objects stay as they are."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).tolist()
    if isinstance(value, np.ndarray):
        return plain_lists(value.tolist()) if value.dtype == object else value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain_lists(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


def nesting(value: Any, where: str) -> int | None:
    """How many levels of lists lie above the numbers; None if there are no numbers.

    Raises:
        TypeError: If something is neither a list nor a number.
        ValueError: If the levels differ.
    """
    if value is None:
        return None
    if isinstance(value, numbers.Real):
        return 0
    if not isinstance(value, list):
        raise TypeError(f"{where}: expected numbers in nested lists, an array or a tensor, got {value!r:.60}")
    levels = {level for i, entry in enumerate(value) if (level := nesting(entry, f"{where}[{i}]")) is not None}
    if len(levels) > 1:
        raise ValueError(f"{where}: expected the same number of levels in every entry, got {sorted(levels)}")
    return levels.pop() + 1 if levels else None


def is_only_none(value: Any) -> bool:
    """Whether nested lists say "none" throughout, without one empty list."""
    return value is None or (isinstance(value, list) and len(value) > 0 and all(is_only_none(v) for v in value))


def prompts_by_image(value: Any, name: str, n_images: int, row_levels: int, allow_flat: bool) -> list | None:
    """Bring nested lists to ``[image][prompt][row]`` with None wherever there is nothing.

    Args:
        value: What the caller gave.
        name: The argument, for messages.
        n_images: B.
        row_levels: Levels of one prompt: 2 for points [point][xy], 1 for labels and boxes.
        allow_flat: Whether the prompt level may be left out (one prompt per image).

    Returns:
        B entries, each None or a list of prompts (None or lists of ``row_levels`` levels); None if nothing is given.

    Raises:
        ValueError: If levels or the number of images are wrong, or lists are empty.
        TypeError: If an entry is not a number.
    """
    nested = plain_lists(value)
    levels, full = nesting(nested, name), row_levels + 2
    if levels is None:
        if is_only_none(nested):
            nested = nested if isinstance(nested, list) else [None] * n_images
            _check_images(nested, name, n_images)
            return None
        raise ValueError(f"{name}: expected at least one entry, got {value!r:.60}; pass None for no prompt")
    if levels == (row_levels if allow_flat else row_levels + 1) and n_images == 1:
        nested, levels = [nested], levels + 1
    if allow_flat and levels == full - 1:
        nested, levels = [[entry] if entry else None for entry in nested], full
    if levels != full:
        shape = "[image][prompt]" + ("[point]" if name != "input_boxes" else "")
        row = {"input_points": "[x, y]", "input_boxes": "[x1, y1, x2, y2]", "input_labels": ""}[name]
        raise ValueError(f"{name}: expected nested lists {shape}{row}, {full} levels, got {levels} levels")
    _check_images(nested, name, n_images)
    return [[prompt or None for prompt in image] if image else None for image in nested]


def _check_images(nested: list, name: str, n_images: int) -> None:
    if len(nested) != n_images:
        raise ValueError(f"{name}: expected entries for {n_images} images, got {len(nested)}")


def _numbers(row: Any, where: str, count: int) -> list[float]:
    if not isinstance(row, list) or len(row) != count:
        raise ValueError(f"{where}: expected {count} coordinates, got {row!r:.60}")
    for number in row:
        if number is None or not math.isfinite(number):
            raise ValueError(f"{where}: expected finite coordinates, got {row!r:.60}")
    return row


def _scaled(rows: list[list[float]], original: tuple[int, int], resized: tuple[int, int]) -> np.ndarray:
    """Original -> resized pixels, for rows of xy or xyxy."""
    scale = np.array([resized[1] / original[1], resized[0] / original[0]])
    array = np.asarray(rows, dtype=np.float64).reshape(len(rows), -1, 2) * scale
    return np.clip(array, -FARTHEST, FARTHEST).reshape(len(rows), -1).astype(np.float32)


def read_points(
    input_points: Any, input_labels: Any, original_sizes: list, reshaped_sizes: list
) -> list[list[tuple[np.ndarray, list[int]] | None] | None] | None:
    """Points and labels -> per image and prompt ((N,2) resized px, N labels), or None.

    Raises:
        ValueError, TypeError: If they cannot be used; the message names argument and place.
    """
    n_images = len(original_sizes)
    points = None if input_points is None else prompts_by_image(input_points, "input_points", n_images, 2, True)
    labels = None if input_labels is None else prompts_by_image(input_labels, "input_labels", n_images, 1, True)
    if points is None:
        if labels is not None:
            raise ValueError("input_labels: got labels without input_points")
        return None
    read = []
    for i, prompts in enumerate(points):
        given = labels[i] if labels is not None else None
        if prompts is None:
            if given is not None and any(given):
                raise ValueError(f"input_labels[{i}]: got labels for an image without points")
            read.append(None)
            continue
        if given is not None and len(given) != len(prompts):
            raise ValueError(f"input_labels[{i}]: expected labels for {len(prompts)} prompts, got {len(given)}")
        image = []
        for p, rows in enumerate(prompts):
            where = f"[{i}][{p}]"
            prompt_labels = given[p] if given is not None else None
            if rows is None:
                if prompt_labels:
                    raise ValueError(f"input_labels{where}: got labels for a prompt without points")
                image.append(None)
                continue
            rows = [_numbers(row, f"input_points{where}[{n}]", 2) for n, row in enumerate(rows)]
            prompt_labels = _labels(prompt_labels, len(rows), f"input_labels{where}")
            image.append((_scaled(rows, original_sizes[i], reshaped_sizes[i]), prompt_labels))
        read.append(image)
    return read


def _labels(labels: list | None, count: int, where: str) -> list[int]:
    if labels is None:
        return [1] * count
    if len(labels) != count:
        raise ValueError(f"{where}: expected {count} labels, one per point, got {len(labels)}")
    for label in labels:
        if label not in LABELS:
            raise ValueError(f"{where}: expected labels 1 (foreground), 0 (background), -1 or -10, got {label!r}")
    return [int(label) for label in labels]


def read_boxes(input_boxes: Any, original_sizes: list, reshaped_sizes: list) -> list[list | None] | None:
    """Boxes -> per image and prompt (4,) xyxy in resized px, or None.

    Raises:
        ValueError, TypeError: If they cannot be used; the message names argument and place.
    """
    nested = plain_lists(input_boxes)
    if nesting(nested, "input_boxes") == 4:  # [image][prompt][1][4], as transformers accepts it
        nested = [image and [_only_box(p, i, j) for j, p in enumerate(image)] for i, image in enumerate(nested)]
    boxes = prompts_by_image(nested, "input_boxes", len(original_sizes), 1, False)
    if boxes is None:
        return None
    read = []
    for i, prompts in enumerate(boxes):
        image = []
        for p, row in enumerate(prompts or []):
            if row is None or row == [PADDING] * 4:
                image.append(None)
                continue
            x1, y1, x2, y2 = _numbers(row, f"input_boxes[{i}][{p}]", 4)
            if x1 > x2 or y1 > y2:
                raise ValueError(
                    f"input_boxes[{i}][{p}]: expected x1 <= x2 and y1 <= y2 (left, top, right, bottom), got {row}"
                )
            image.append(_scaled([row], original_sizes[i], reshaped_sizes[i])[0])
        read.append(image if prompts is not None else None)
    return read


def _only_box(prompt: Any, image_index: int, index: int) -> Any:
    if prompt and len(prompt) != 1:
        raise ValueError(
            f"input_boxes[{image_index}][{index}]: expected one box per prompt, got {len(prompt)}; "
            "several boxes are several prompts (SamPredictor.predict_batch)"
        )
    return prompt[0] if prompt else None


def read_masks(input_masks: Any, n_images: int) -> list[list | None] | None:
    """Mask prompts -> per image and prompt one array (H,W), or None; sizes and values are not looked at here.

    Raises:
        ValueError: If the number of images or dimensions is wrong.
        TypeError: If something is not a mask.
    """
    if is_pil_image(input_masks) or (isinstance(input_masks, (np.ndarray, Tensor)) and input_masks.ndim == 2):
        input_masks = [input_masks]
    elif isinstance(input_masks, (np.ndarray, Tensor)) and input_masks.ndim == 3 and n_images == 1:
        input_masks = [input_masks]
    if not isinstance(input_masks, (list, tuple, np.ndarray, Tensor)):
        raise TypeError(f"input_masks: expected masks, got {type(input_masks).__name__}")
    _check_images(input_masks, "input_masks", n_images)
    read = [_image_masks(entry, f"input_masks[{i}]") for i, entry in enumerate(input_masks)]
    if all(image is None or all(mask is None for mask in image) for image in read):
        return None
    return read


def _image_masks(entry: Any, where: str) -> list | None:
    if entry is None:
        return None
    if isinstance(entry, (list, tuple)) and not _is_number_grid(entry):
        masks = [None if mask is None else _one_mask(mask, f"{where}[{p}]") for p, mask in enumerate(entry)]
        return masks or None
    if is_pil_image(entry) or _is_number_grid(entry) or entry.ndim == 2:
        return [_one_mask(entry, where)]
    return [_one_mask(mask, f"{where}[{p}]") for p, mask in enumerate(entry)] or None


def _is_number_grid(entry: Any) -> bool:
    return isinstance(entry, (list, tuple)) and all(
        isinstance(row, (list, tuple)) and all(isinstance(v, (numbers.Real, np.generic)) for v in row) for row in entry
    )


def _one_mask(mask: Any, where: str) -> Tensor:
    if is_pil_image(mask):
        mask = np.array(upright(mask, where))
    if not isinstance(mask, Tensor):
        try:
            mask = torch.from_numpy(np.array(mask))
        except (TypeError, ValueError) as error:
            raise TypeError(f"{where}: expected a mask (H,W) of numbers, got {type(mask).__name__}") from error
    mask = mask.detach()
    if mask.ndim == 3 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim != 2 or mask.numel() == 0:
        raise ValueError(f"{where}: expected a mask of the shape (H,W), got {tuple(mask.shape)}")
    return mask


def mask_prompt_logits(
    mask: Tensor,
    where: str,
    original: tuple[int, int],
    resized: tuple[int, int],
    padded: tuple[int, int],
    low_resolution: tuple[int, int],
) -> Tensor | None:
    """Turn one mask into the logits (4h,4w) that the model takes.

    Of bool or whole numbers, {0,1} or {0,255}, it is a binary mask and becomes logits of -10 and +10. Floats in the
    low resolution are logits and stay as they are; floats of the original size are a binary mask if they are all 0 or
    1, and logits otherwise (probabilities between 0 and 1 are refused). A mask of the original size is resized and
    padded just like its image (bilinear, antialiased; the padding is background). A mask of NaN is no mask.

    Args:
        mask: (H,W), original pixels, or (4h,4w).
        where: Argument and place, for messages.
        original: (H,W), original pixels.
        resized: (H,W), resized pixels.
        padded: (H,W) of the padded square, resized pixels.
        low_resolution: (4h,4w).

    Returns:
        (4h,4w) float32, or None for a mask of NaN.

    Raises:
        ValueError: If size or values are none of these.
    """
    shape = tuple(mask.shape)
    if shape not in (tuple(original), tuple(low_resolution)):
        raise ValueError(
            f"{where}: expected the size of its image {tuple(original)} or logits {tuple(low_resolution)}, got {shape}"
        )
    is_low = shape == tuple(low_resolution)
    if not mask.is_floating_point():
        top = 1 if mask.dtype == torch.bool else int(mask.max()) or 1
        if top not in (1, 255) or not bool(((mask == 0) | (mask == top)).all()):
            raise ValueError(f"{where}: expected a binary mask of 0 and 1 (or 0 and 255), got other whole numbers")
        logits = (mask != 0).to(torch.float32) * (2 * MASK_LOGIT) - MASK_LOGIT
    else:
        logits = mask.to(torch.float32)
        if bool(torch.isnan(logits).all()):
            return None
        if not bool(torch.isfinite(logits).all()):
            raise ValueError(f"{where}: expected finite values, or NaN throughout for no mask")
        binary = bool(((logits == 0) | (logits == 1)).all())
        if binary and (not is_low or (shape == tuple(original) and bool(logits.any()))):
            logits = logits * (2 * MASK_LOGIT) - MASK_LOGIT
        elif not is_low and 0.0 <= float(logits.min()) and float(logits.max()) <= 1.0:
            raise ValueError(f"{where}: expected a binary mask or logits, got values between 0 and 1; threshold them")
    if is_low:  # if the image has this very size, it is a square and fills the padded one
        return logits
    placed = torch.full((1, 1, *padded), -MASK_LOGIT)
    placed[..., : resized[0], : resized[1]] = F.interpolate(
        logits[None, None].cpu(), tuple(resized), mode="bilinear", align_corners=False, antialias=True
    )
    placed = F.interpolate(placed, tuple(low_resolution), mode="bilinear", align_corners=False, antialias=True)
    return placed[0, 0]


def prompt_count(kinds: dict[str, list[list | None] | None], n_images: int) -> int:
    """P of the batch, after checking that all kinds of prompts agree image by image.

    Args:
        kinds: What was read, by argument.
        n_images: B.

    Raises:
        ValueError: Naming two arguments that disagree.
    """
    most = 0
    for i in range(n_images):
        counts = {name: len(read[i]) for name, read in kinds.items() if read is not None and read[i] is not None}
        for (first, count), (second, other) in zip(list(counts.items())[:-1], list(counts.items())[1:], strict=True):
            if count != other:
                raise ValueError(
                    f"{first} and {second}: expected the same number of prompts for image {i}, got {count} and {other}"
                )
        most = max([most, *counts.values()])
    return most


def stack_points(read: list, n_prompts: int, padding: float = PADDING) -> tuple[Tensor, Tensor]:
    """Fill up and stack -> points (B,P,N,2) float32 resized px, labels (B,P,N) int64.

    `padding` fills coordinates only: a label other than -10 would be a click.
    """
    filled = [prompt for image in read if image for prompt in image if prompt is not None]
    n_points = max(len(labels) for _, labels in filled)
    points = np.full((len(read), n_prompts, n_points, 2), padding, dtype=np.float32)
    labels = np.full((len(read), n_prompts, n_points), PADDING, dtype=np.int64)
    for i, image in enumerate(read):
        for p, prompt in enumerate(image or []):
            if prompt is not None:
                points[i, p, : len(prompt[1])], labels[i, p, : len(prompt[1])] = prompt
    points[labels == PADDING] = padding
    return torch.from_numpy(points), torch.from_numpy(labels)


def stack_rows(read: list, n_prompts: int, shape: tuple[int, ...], padding: float) -> Tensor:
    """Fill up and stack boxes or mask logits -> (B,P,*shape) float32."""
    stacked = torch.full((len(read), n_prompts, *shape), float(padding))
    for i, image in enumerate(read):
        for p, prompt in enumerate(image or []):
            if prompt is not None:
                stacked[i, p] = torch.as_tensor(prompt).reshape(shape)
    return stacked
