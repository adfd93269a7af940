"""Folders in SA-1B's layout: `sa_1.jpg` beside `sa_1.json`, the masks in COCO's run lengths.

    {"image": {"image_id", "width", "height", "file_name"},
     "annotations": [{"id", "segmentation": {"size": [H, W], "counts"}, "bbox": [x, y, w, h], "area",
                      "predicted_iou", "stability_score", "crop_box", "point_coords"}]}

Of an annotation only `segmentation` is needed. SA-1B has no words; a file of the same form may have them:
`"phrases"` of an annotation (a phrase or a list, true of this object only, best first) and `"absent_phrases"` of the
file (true of nothing in the picture). Other readers of SA-1B pass over both.

Source: README of the data set; §5 of the paper.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam_hf.data.annotated_image import IMAGE_SUFFIXES, AnnotatedImage, Skipping


class Sa1bFolder(Skipping):
    """The pictures of a folder and of the folders in it, in the order of their names.

    Args:
        folder: Holds `*.json` and, beside each, a picture of the same name.
        on_error: What iteration does with a record that cannot be read: "raise" or "skip" (and count).
        limit: Use only so many files; None: all.

    Raises:
        ValueError: `folder` is no folder or holds no annotation files, or an option is unknown.
    """

    def __init__(self, folder: str | Path, on_error: str = "raise", limit: int | None = None):
        super().__init__(on_error)
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"{str(self.folder)!r} is not a folder")
        # names only, as strings: for millions of files Path objects would take gigabytes
        self._names = sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*.json"))[:limit]
        if not self._names:
            raise ValueError(f"{str(self.folder)!r} holds no annotation files (SA-1B: sa_1.jpg beside sa_1.json)")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> AnnotatedImage:
        """Picture `index`.

        Raises:
            ValueError: Its file is damaged or of another form, or the picture is missing; the message names the file.
        """
        path = self.folder / self._names[index]
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: cannot be read: {error}") from error
        content = parse_json(text, str(path))
        return parse_record(content, _image_beside(path, content), str(path))


def parse_json(text: str | bytes, name: str) -> Any:
    """Content of a JSON file.

    Raises:
        ValueError: It is none; the message begins with `name`.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name}: not a JSON file: {error}") from error


def parse_record(content: Any, image: Path | bytes, name: str) -> AnnotatedImage:
    """The record of one picture.

    Args:
        content: What its JSON file holds.
        image: The picture's file or its bytes.
        name: What error messages call it.

    Raises:
        ValueError: `content` is not of SA-1B's form.
    """
    try:
        size = (int(content["image"]["height"]), int(content["image"]["width"]))
        annotations = content["annotations"]
        masks = tuple(annotation["segmentation"] for annotation in annotations)
        phrases = tuple(read_phrases(annotation, "phrases") for annotation in annotations)
        absent = read_phrases(content, "absent_phrases")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f'{name}: not in SA-1B\'s form {{"image": {{"height", "width"}}, '
            f'"annotations": [{{"segmentation"}}]}}: {problem}'
        ) from error
    return AnnotatedImage(name, image, size, masks, phrases, absent)


def read_phrases(fields: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The phrases under `key`: none, one or a list; blank ones are left out.

    Raises:
        TypeError: Something else is there.
    """
    given = fields.get(key)
    given = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(given, list) or not all(isinstance(phrase, str) for phrase in given):
        raise TypeError(f'"{key}" must be a phrase or a list of phrases, got {str(given)[:60]}')
    return tuple(phrase.strip() for phrase in given if phrase.strip())


def _image_beside(path: Path, content: Any) -> Path:
    """The picture of an annotation file: of the same name, else what the file names."""
    for suffix in IMAGE_SUFFIXES:
        if path.with_suffix(suffix).is_file():
            return path.with_suffix(suffix)
    image = content.get("image") if isinstance(content, dict) else None
    named = image.get("file_name") if isinstance(image, dict) else None
    if isinstance(named, str) and (path.parent / named).is_file():
        return path.parent / named
    raise ValueError(f"{path}: its image is missing: expected {path.with_suffix('.jpg').name} beside it")
