"""From any picture to one tensor: files, PIL images of every mode, numpy arrays and torch tensors.

The result is always (C,H,W), C = 3 RGB channels, and its values are always on the 8-bit scale [0,255]: uint8 where the
source has 8 bits, float32 where it has more, so that nothing is clipped. The rule for values, exactly:

* bool and PIL mode ``1``: False is 0, True is 255;
* uint8: as it is;
* uint16 and PIL ``I;16*``: the whole 16-bit range is scaled, 65535 becomes 255;
* other integers and PIL ``I``: values up to 255 are 8-bit values, up to 65535 16-bit values; anything else is refused;
* floats and PIL ``F``: a maximum of at most 1 means the range [0,1], else the range is [0,255]; up to 1% of overshoot
  is cut off, more is refused, and so are NaN and infinity.

Transparent pixels are composited on white. PIL images and files are turned upright (EXIF orientation) first, so
"original pixels" are those of the upright picture. Arrays of three dimensions are channels-first or channels-last,
whichever axis has 3 or 4 (else 1) entries; if both do, arrays are channels-last and tensors channels-first.

Source: none in the paper; differs from transformers 5.23, which clips 16-bit PIL images, rescales float and uint16
arrays by 1/255 whatever their range, and ignores the orientation tag of PIL images.
"""

import os
from typing import Any

import numpy as np
import torch

EXIF_ORIENTATION = 0x0112
DEEP_PIL_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
OVERSHOOT = 0.01


def is_pil_image(value: Any) -> bool:
    """Whether ``value`` is a PIL image."""
    from PIL import Image

    return isinstance(value, Image.Image)


def flatten_images(images: Any, name: str = "images", image_ndim: int = 3) -> list[Any]:
    """Spread one picture, a batch array or a (nested) list of pictures into a flat list.

    Args:
        images: A picture (path, PIL image, array, tensor), an array with one dimension more, or a list of those.
        name: What the argument is called in error messages.
        image_ndim: Dimensions of one array with its channels: 3 for images, 2 for segmentation maps.

    Returns:
        The pictures, not yet read.

    Raises:
        ValueError: If nothing is given, or an entry is None.
        TypeError: If an entry is not a picture.
    """
    if images is None:
        raise ValueError(f"{name}: expected an image or a list of images, got None")
    if isinstance(images, (list, tuple)):
        if len(images) == 0:
            raise ValueError(f"{name}: expected at least one image, got an empty list")
        flat = []
        for index, entry in enumerate(images):
            flat.extend(_spread(entry, f"{name}[{index}]", image_ndim))
        return flat
    return _spread(images, name, image_ndim)


def _spread(entry: Any, where: str, image_ndim: int) -> list[Any]:
    if entry is None:
        raise ValueError(f"{where}: expected an image, got None")
    if isinstance(entry, (str, os.PathLike)) or is_pil_image(entry):
        return [entry]
    if isinstance(entry, (np.ndarray, torch.Tensor)):
        if entry.ndim == image_ndim + 1 or (image_ndim == 2 and entry.ndim == 4):
            if entry.shape[0] == 0:
                raise ValueError(f"{where}: expected at least one image, got an array of shape {tuple(entry.shape)}")
            return list(entry)
        if entry.ndim not in (2, image_ndim):
            raise ValueError(f"{where}: expected an array (H,W), (H,W,C) or (C,H,W), got shape {tuple(entry.shape)}")
        return [entry]
    if isinstance(entry, (list, tuple)):
        if len(entry) == 0:
            raise ValueError(f"{where}: expected at least one image, got an empty list")
        pictures = (str, os.PathLike, np.ndarray, torch.Tensor)
        if all(isinstance(inner, pictures) or is_pil_image(inner) for inner in entry):
            spread = (_spread(inner, f"{where}[{index}]", image_ndim) for index, inner in enumerate(entry))
            return [image for images in spread for image in images]
    raise TypeError(
        f"{where}: expected a path, a PIL image, a numpy array or a torch tensor, got {type(entry).__name__}"
    )


def load_image_tensor(
    image: Any,
    where: str = "images",
    do_convert_rgb: bool = True,
    to_8bit: bool = True,
    input_data_format: Any = None,
) -> torch.Tensor:
    """Read one picture as (C,H,W).

    Args:
        image: A path or URL, a PIL image, or an array or tensor (H,W), (H,W,C) or (C,H,W).
        where: What the picture is called in error messages.
        do_convert_rgb: Make three RGB channels (transparency on white); otherwise keep the channels as they are.
        to_8bit: Bring the values to [0,255] by the rule of this module; otherwise keep their scale.
        input_data_format: ``"channels_first"`` or ``"channels_last"``, where the guess would be wrong.

    Returns:
        (C,H,W) uint8 or float32, original pixels. The memory may be the caller's and must not be written to.

    Raises:
        ValueError: If the picture is empty, cannot be decoded, has NaN pixels or values outside the rule.
        TypeError: If it is not a picture.
    """
    if isinstance(image, (str, os.PathLike)):
        image = open_image(image, where)
    if is_pil_image(image):
        pixels = _pil_pixels(image, where, do_convert_rgb)
        if pixels.shape[0] == 3 and pixels.dtype == torch.uint8:
            return pixels
    elif isinstance(image, (np.ndarray, torch.Tensor)):
        pixels = channels_first(_plain_tensor(image, where), where, input_data_format, isinstance(image, np.ndarray))
    else:
        raise TypeError(
            f"{where}: expected a path, a PIL image, a numpy array or a torch tensor, got {type(image).__name__}"
        )
    pixels, white = _scaled(pixels, where, to_8bit)
    if not do_convert_rgb:
        return pixels
    if pixels.shape[0] == 4:
        pixels = _on_white(pixels, white)
    return pixels.expand(3, -1, -1) if pixels.shape[0] == 1 else pixels


def as_bytes(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels of `load_image_tensor` as uint8."""
    return pixels if pixels.dtype == torch.uint8 else pixels.round().clamp(0, 255).to(torch.uint8)


def open_image(source: str | os.PathLike, where: str) -> Any:
    """Open a file; URLs and base64 strings go through transformers' ``load_image``.

    Raises:
        ValueError: If there is no such file or it is not a picture.
    """
    from PIL import Image, UnidentifiedImageError
    from transformers.image_utils import load_image

    if os.path.isfile(source):
        try:
            with Image.open(source) as image:
                image.load()
                return image
        except Image.DecompressionBombError as error:
            limit = 2 * Image.MAX_IMAGE_PIXELS
            raise ValueError(
                f"{where}: the file {str(source)!r} has more than {limit} pixels, which PIL refuses; make it smaller, "
                "or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
            ) from error
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{where}: the file {str(source)!r} cannot be decoded as an image") from error
    shown = str(source) if len(str(source)) <= 80 else str(source)[:77] + "..."
    try:
        return load_image(str(source), timeout=10.0)
    except Exception as error:  # whatever the network or the decoder says, the caller learns which argument it was
        raise ValueError(f"{where}: {shown!r} is neither a readable file nor the URL or base64 text of one") from error


def _pil_pixels(image: Any, where: str, do_convert_rgb: bool) -> torch.Tensor:
    from PIL import Image

    image = upright(image, where)
    if 0 in image.size:
        raise ValueError(f"{where}: the image has no pixels: width, height = {image.size}")
    if image.mode in DEEP_PIL_MODES or not do_convert_rgb:
        pixels = torch.from_numpy(_native(np.array(image)))
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    if image.mode == "La":  # premultiplied grey: PIL knows only the way through LA
        image = image.convert("LA")
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    # kept channels-last in memory: torchvision's uint8 resizing is several times faster on it, with equal results
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def upright(image: Any, where: str) -> Any:
    """Apply the EXIF orientation of a PIL image, without a copy where there is none.

    Raises:
        ValueError: If the pixels cannot be decoded.
    """
    from PIL import ImageOps

    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{where}: the image cannot be decoded (truncated or damaged file?)") from error
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels, which are fine
        return image
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def _native(array: np.ndarray) -> np.ndarray:
    """Make an array that torch can take: native byte order, positive strides, no uint32/uint64."""
    if array.dtype.byteorder not in ("=", "|"):
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype in (np.uint32, np.uint64):
        array = array.astype(np.int64)
    if any(stride < 0 for stride in array.strides):
        array = np.ascontiguousarray(array)
    return array if array.flags.writeable else array.copy()


def _plain_tensor(image: np.ndarray | torch.Tensor, where: str) -> torch.Tensor:
    kind = image.dtype.kind if isinstance(image, np.ndarray) else ("c" if image.is_complex() else "t")
    if kind not in "biuft":
        raise TypeError(f"{where}: expected pixels of a real number type, got dtype {image.dtype}")
    if 0 in image.shape:
        raise ValueError(f"{where}: the image has no pixels: shape {tuple(image.shape)}")
    return torch.from_numpy(_native(image)) if isinstance(image, np.ndarray) else image


def channels_first(
    pixels: torch.Tensor, where: str, input_data_format: Any = None, prefer_last: bool = False
) -> torch.Tensor:
    """View (H,W), (H,W,C) or (C,H,W) as (C,H,W), C in 1, 3, 4.

    Args:
        pixels: The array.
        where: What it is called in error messages.
        input_data_format: ``"channels_first"``, ``"channels_last"`` (or the enum) if the caller knows.
        prefer_last: What to take where both ends could be the channels.

    Raises:
        ValueError: If no axis can be the channels.
    """
    if pixels.ndim == 2:
        return pixels[None]
    if pixels.ndim != 3:
        raise ValueError(f"{where}: expected an array (H,W), (H,W,C) or (C,H,W), got shape {tuple(pixels.shape)}")
    first, last = pixels.shape[0], pixels.shape[-1]
    if input_data_format is not None:
        is_last = getattr(input_data_format, "value", input_data_format) in ("channels_last", "last")
        if (last if is_last else first) not in (1, 3, 4):
            raise ValueError(
                f"{where}: expected 1, 3 or 4 channels as {input_data_format}, got shape {tuple(pixels.shape)}"
            )
    elif (first in (3, 4)) != (last in (3, 4)):
        is_last = last in (3, 4)
    elif first in (3, 4) or (first == 1 and last == 1):
        is_last = prefer_last
    elif 1 in (first, last):
        is_last = last == 1
    else:
        raise ValueError(f"{where}: expected 1, 3 or 4 channels first or last, got shape {tuple(pixels.shape)}")
    return pixels.permute(2, 0, 1) if is_last else pixels


def _scaled(pixels: torch.Tensor, where: str, to_8bit: bool) -> tuple[torch.Tensor, float]:
    """Apply the rule for values; the second result is the value of white."""
    if pixels.dtype == torch.bool:
        return pixels.to(torch.uint8) * (255 if to_8bit else 1), 255.0 if to_8bit else 1.0
    if pixels.dtype == torch.uint8:
        return pixels, 255.0
    if pixels.is_floating_point():
        return _scaled_float(pixels, where, to_8bit)
    sixteen_bit = pixels.dtype == torch.uint16
    if sixteen_bit:
        pixels = pixels.to(torch.int32)
    low, high = (int(value) for value in torch.aminmax(pixels))
    if not to_8bit:
        return pixels.to(torch.float32), 65535.0 if sixteen_bit or high > 255 else 255.0
    if low < 0 or high > 65535:
        raise ValueError(f"{where}: expected integer pixels in [0,255] or [0,65535], got values from {low} to {high}")
    if high <= 255 and not sixteen_bit:
        return pixels.to(torch.uint8), 255.0
    return pixels.to(torch.float32) * (255.0 / 65535.0), 255.0


def _scaled_float(pixels: torch.Tensor, where: str, to_8bit: bool) -> tuple[torch.Tensor, float]:
    pixels = pixels.to(torch.float32)
    low, high = (float(value) for value in torch.aminmax(pixels.detach()))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{where}: expected finite pixels, got NaN or infinity")
    white = 1.0 if high <= 1.0 else 255.0
    if not to_8bit:
        return pixels, white
    if low < -OVERSHOOT * white or high > (1 + OVERSHOOT) * white:
        raise ValueError(f"{where}: expected float pixels in [0,1] or [0,255], got values from {low:g} to {high:g}")
    if low < 0.0 or high > white:
        pixels = pixels.clamp(0.0, white)
    return (pixels * 255.0 if white == 1.0 else pixels), 255.0


def _on_white(pixels: torch.Tensor, white: float) -> torch.Tensor:
    """Composite (4,H,W) RGBA on white -> (3,H,W), same dtype."""
    colour, alpha = pixels[:3], pixels[3:]
    if bool((alpha == white).all()):
        return colour
    blended = white + (colour.to(torch.float32) - white) * (alpha.to(torch.float32) / white)
    return blended if pixels.is_floating_point() else blended.round().to(pixels.dtype)


def load_map_tensor(segmentation_map: Any, where: str = "segmentation_maps") -> torch.Tensor:
    """Read one segmentation map as (1,H,W), one whole number per pixel: uint8, or float64 (exact to 2**53) beyond.

    Raises:
        ValueError: If it is empty, has several channels or NaN.
        TypeError: If it is not a map.
    """
    if isinstance(segmentation_map, (str, os.PathLike)):
        segmentation_map = open_image(segmentation_map, where)
    if is_pil_image(segmentation_map):
        segmentation_map = np.array(upright(segmentation_map, where))
    if not isinstance(segmentation_map, (np.ndarray, torch.Tensor)):
        raise TypeError(f"{where}: expected an array (H,W) or a PIL image, got {type(segmentation_map).__name__}")
    pixels = _plain_tensor(segmentation_map, where)
    if pixels.ndim == 3 and pixels.shape[0] != 1 and pixels.shape[-1] == 1:
        pixels = pixels.permute(2, 0, 1)
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or pixels.shape[0] != 1:
        raise ValueError(f"{where}: expected one number per pixel, shape (H,W), got shape {tuple(pixels.shape)}")
    if pixels.is_floating_point() and not bool(torch.isfinite(pixels).all()):
        raise ValueError(f"{where}: expected finite labels, got NaN or infinity")
    return pixels if pixels.dtype == torch.uint8 else pixels.to(torch.float64)
