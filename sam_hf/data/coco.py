"""COCO's instance annotations (and LVIS', which have the same form): one JSON file and a folder of pictures.

Masks are polygons or run lengths, decoded when asked for. Regions of many (`iscrowd`) are left out: they are no
object's mask.

Category names can serve as phrases. A phrase must mean one thing, so an object gets its category's name only where
that name occurs once in the picture; names that do not occur are its absent phrases. LVIS, where not every category
was looked for everywhere, names those surely absent (`neg_category_ids`) and those of which not everything was drawn
(`not_exhaustive_category_ids`), whose names are then no phrases. "bow" is a weapon and a ribbon: one name, absent only
if both are.

Source: Lin et al. 2014 (arXiv 1405.0312); Gupta et al. 2019 (arXiv 1908.03195).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from sam_hf.data.annotated_image import AnnotatedImage, Skipping
from sam_hf.data.lvis import category_phrase
from sam_hf.data.sa1b import parse_json, read_phrases


class CocoImages(Skipping):
    """The annotated pictures of a COCO file, in its order; pictures without annotations are left out.

    Args:
        file: The annotations, e.g. `instances_train2017.json`. Annotations may also have `"phrases"`, see `sa1b`.
        images: Folder of the pictures. None: the folder of `file`.
        category_phrases: Whether category names are phrases.
        on_error: What iteration does with a record that cannot be read: "raise" or "skip" (and count).

    Raises:
        ValueError: A file or folder is missing or of another form, or an option is unknown.
    """

    def __init__(
        self,
        file: str | Path,
        images: str | Path | None = None,
        category_phrases: bool = False,
        on_error: str = "raise",
    ):
        super().__init__(on_error)
        self.file = Path(file)
        self.folder = self.file.parent if images is None else Path(images)
        if not self.folder.is_dir():
            raise ValueError(f"images: {str(self.folder)!r} is not a folder")
        try:
            content = parse_json(self.file.read_text(encoding="utf-8"), str(self.file))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.file}: cannot be read: {error}") from error
        self.category_phrases = category_phrases
        try:
            self._sort(content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{self.file}: not in COCO\'s form {{"images": [{{"id", "file_name", "height", "width"}}], '
                f'"annotations": [{{"image_id", "category_id", "segmentation"}}], "categories"}}: {error!r}'
            ) from error
        if not self._images:
            raise ValueError(f"{self.file}: no image has annotations")

    def _sort(self, content: dict[str, Any]) -> None:
        self._names = {entry["id"]: category_phrase(entry["name"]) for entry in content.get("categories", ())}
        self._categories: dict[str, set[Any]] = defaultdict(set)
        for number, said in self._names.items():
            self._categories[said].add(number)
        if self.category_phrases and not self._names:
            raise KeyError("categories")
        self._annotations: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            self._annotations[annotation["image_id"]].append(annotation)
        self._images = [entry for entry in content["images"] if entry["id"] in self._annotations]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> AnnotatedImage:
        """Picture `index`.

        Raises:
            ValueError: Its picture is missing or its entry of another form; the message names the file.
        """
        entry = self._images[index]
        name = f"{self.file}: image {entry['id']}"
        try:
            # LVIS names only the address: .../train2017/000000391895.jpg
            file_name = entry.get("file_name") or "/".join(entry["coco_url"].split("/")[-2:])
            size = (int(entry["height"]), int(entry["width"]))
            annotations = self._annotations[entry["id"]]
            objects = [annotation for annotation in annotations if not annotation.get("iscrowd")]
            masks = tuple(annotation["segmentation"] for annotation in objects)
            phrases, absent = self._phrases(entry, annotations, objects)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{name}: not in COCO's form: {error!r}") from error
        path = self.folder / file_name
        if not path.is_file():
            raise ValueError(f"{name}: its picture {str(path)!r} is missing (images: where they are)")
        return AnnotatedImage(f"{name} ({file_name})", path, size, masks, phrases, absent)

    def _phrases(
        self, entry: dict[str, Any], annotations: list[dict[str, Any]], objects: list[dict[str, Any]]
    ) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
        """Phrases of each object, and absent ones."""
        phrases = [read_phrases(annotation, "phrases") for annotation in objects]
        absent = read_phrases(entry, "absent_phrases")
        if self.category_phrases:
            counts = Counter(self._names[annotation["category_id"]] for annotation in annotations)  # crowds as well
            unsure = {self._names[number] for number in entry.get("not_exhaustive_category_ids", ())}
            for place, annotation in enumerate(objects):
                said = self._names[annotation["category_id"]]
                if counts[said] == 1 and said not in unsure:
                    phrases[place] += (said,)
            surely = set(entry.get("neg_category_ids", self._names))
            missing = (said for said, meant in self._categories.items() if meant <= surely)
            absent += tuple(said for said in missing if said not in counts and said not in unsure)
        return tuple(phrases), absent
