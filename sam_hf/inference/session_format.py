"""Prompt sessions: what a person did to a picture, as values and as JSON. `session` does it again.

A session is JSON. Coordinates are original pixels (of the picture turned upright by its EXIF orientation), masks are
in COCO's compressed run lengths of the picture's size:

    {"format": "sam_hf.session", "version": 1, "image": {"name": str, "size": [H, W], "sha256": str | null},
     "checkpoint": "tiny",
     "objects": [{"name": str, "color": "#rrggbb", "steps": [STEP, ...], "fill_holes": pixels, "drop_islands": pixels,
                  "polygon_detail": 0..1, "hidden": bool, "rle": RLE | null}]}

    STEP = {"points": [[x, y], ...], "labels": [1 | 0, ...], "box": [x0, y0, x1, y1] | null, "text": str | null,
            "brush": RLE | null, "previous": bool, "selected": 0 | 1 | 2 | null}

Each step carries all prompts that hold at that moment; undoing is leaving out the last one. Required are `format`,
`version`, `image.size`, `objects`, and of an object `steps` or `rle`; the rest has defaults. Other keys are refused: a
misspelt one would silently change what comes out. `rle` is the mask that the object was, to compare with; an object
without steps (from everything mode, or text) is that mask.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sam_hf.inference import json_fields as read
from sam_hf.masks.labeled_mask import LabeledMask
from sam_hf.masks.rle import MOST_PIXELS

FORMAT, VERSION = "sam_hf.session", 1
MOST_OBJECTS, MOST_STEPS, MOST_POINTS = 1024, 256, 256  # of a session, an object, a step
LONGEST_JSON = 64_000_000  # characters
LONGEST_NAME, LONGEST_TEXT = 255, 1000
FARTHEST = 1e6  # pixels from the corner; a point may lie outside the picture, but is a float32 in the model
DEFAULT_COLOR = "#0072b2"


@dataclass(frozen=True)
class Step:
    """All prompts of one decode.

    Attributes:
        points: xy, original pixels.
        labels: Per point 1 (on the object) or 0 (beside it).
        box: xyxy, original pixels.
        text: A phrase.
        brush: RLE of a painted mask, the mask prompt.
        previous: Whether the low-resolution logits of the mask selected in the step before are the mask prompt; with
            a brush that is the mask prompt instead.
        selected: Which of the answer's masks was chosen; None: the one with the best score.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    text: str | None = None
    brush: Mapping[str, Any] | None = None
    previous: bool = False
    selected: int | None = None

    @classmethod
    def from_json(cls, value: Any, size: tuple[int, int], path: str = "step") -> "Step":
        """Reads a step.

        Args:
            value: Parsed JSON.
            size: (H,W) of the picture.
            path: What error messages call it.

        Raises:
            ValueError: Something in it is missing, unknown, of another type or out of bounds; the message names it.
        """
        given = read.fields(value, path, tuple(cls.__dataclass_fields__))
        points = tuple(
            read.numbers(point, f"{path}.points[{index}]", 2, FARTHEST)
            for index, point in enumerate(read.items(_or(given.get("points"), ()), f"{path}.points", MOST_POINTS))
        )
        labels = read.items(_or(given.get("labels"), [1] * len(points)), f"{path}.labels", MOST_POINTS)
        labels = tuple(read.whole(label, f"{path}.labels[{index}]", 0, 1) for index, label in enumerate(labels))
        if len(labels) != len(points):
            raise ValueError(f"{path}.labels: expected one per point, {len(points)}, got {len(labels)}")
        box, text, brush, selected = (given.get(name) for name in ("box", "text", "brush", "selected"))
        step = cls(
            points,
            labels,
            None if box is None else _read_box(box, f"{path}.box"),
            None if text is None else _read_phrase(text, f"{path}.text"),
            None if brush is None else read.run_lengths(brush, f"{path}.brush", size),
            read.flag(_or(given.get("previous"), False), f"{path}.previous"),
            None if selected is None else read.whole(selected, f"{path}.selected", 0, 2),
        )
        if not (step.points or step.box or step.text or step.brush or step.previous):
            raise ValueError(f"{path}: expected a prompt: points, a box, a text, a brush or the previous mask")
        return step

    def to_json(self) -> dict[str, Any]:
        """The step as JSON has it, with every key."""
        return {
            "points": [list(point) for point in self.points],
            "labels": list(self.labels),
            "box": None if self.box is None else list(self.box),
            "text": self.text,
            "brush": None if self.brush is None else dict(self.brush),
            "previous": self.previous,
            "selected": self.selected,
        }


@dataclass(frozen=True)
class SessionObject:
    """One object that was kept.

    Attributes:
        name: What it was called; any text.
        color: "#rrggbb".
        steps: How it came about; none: it is the mask `rle`.
        fill_holes: Holes with fewer pixels were filled.
        drop_islands: Islands with fewer pixels were dropped.
        polygon_detail: Of exported polygons, see `sam_hf.masks.polygons`.
        hidden: Whether it was hidden.
        rle: What it was in the end, or None.
    """

    name: str = ""
    color: str = DEFAULT_COLOR
    steps: tuple[Step, ...] = ()
    fill_holes: float = 0.0
    drop_islands: float = 0.0
    polygon_detail: float = 1.0
    hidden: bool = False
    rle: Mapping[str, Any] | None = None

    @classmethod
    def from_json(cls, value: Any, size: tuple[int, int], path: str = "object") -> "SessionObject":
        """Reads an object; see `Step.from_json`."""
        given = read.fields(value, path, tuple(cls.__dataclass_fields__))
        steps, rle = read_steps(_or(given.get("steps"), ()), size, f"{path}.steps"), given.get("rle")
        if not steps and rle is None:
            raise ValueError(f"{path}: expected steps or an rle, got neither")
        return cls(
            read.text(_or(given.get("name"), ""), f"{path}.name", LONGEST_NAME),
            read.matching(
                _or(given.get("color"), DEFAULT_COLOR), f"{path}.color", "#[0-9a-fA-F]{6}", "a color #rrggbb"
            ),
            steps,
            read.number(_or(given.get("fill_holes"), 0), f"{path}.fill_holes", 0, MOST_PIXELS),
            read.number(_or(given.get("drop_islands"), 0), f"{path}.drop_islands", 0, MOST_PIXELS),
            read.number(_or(given.get("polygon_detail"), 1), f"{path}.polygon_detail", 0, 1),
            read.flag(_or(given.get("hidden"), False), f"{path}.hidden"),
            None if rle is None else read.run_lengths(rle, f"{path}.rle", size),
        )

    def labeled(self, score: float | None = None, rle: Mapping[str, Any] | None = None) -> LabeledMask:
        """The object for export.

        Args:
            score: Estimate of the mask's IoU, or None.
            rle: Its mask; None: the one it has. Its point is the first that was put on it.
        """
        on_it = (
            point for step in self.steps for point, label in zip(step.points, step.labels, strict=True) if label == 1
        )
        mask = self.rle if rle is None else rle
        return LabeledMask(mask, self.name, self.color, score, self.polygon_detail, point=next(on_it, None))

    def to_json(self) -> dict[str, Any]:
        """The object as JSON has it, with every key."""
        return {
            "name": self.name,
            "color": self.color,
            "steps": [step.to_json() for step in self.steps],
            "fill_holes": self.fill_holes,
            "drop_islands": self.drop_islands,
            "polygon_detail": self.polygon_detail,
            "hidden": self.hidden,
            "rle": None if self.rle is None else dict(self.rle),
        }


@dataclass(frozen=True)
class PromptSession:
    """What was done to one picture.

    Attributes:
        size: (H,W) of the picture, original pixels.
        objects: What was kept, in order.
        checkpoint: What the model was called where the session was made.
        image_name: Of the picture's file; any text, never a path to open.
        image_sha256: Of the picture's file, or None.
    """

    size: tuple[int, int]
    objects: tuple[SessionObject, ...] = ()
    checkpoint: str = "tiny"
    image_name: str = ""
    image_sha256: str | None = None

    @classmethod
    def from_json(cls, value: Any) -> "PromptSession":
        """Reads a session that anybody may have written.

        Args:
            value: JSON, as text or parsed.

        Raises:
            ValueError: It is none, of another version, or something in it is wrong; the message begins with where,
                such as `objects[2].steps[0].points[1]`.
        """
        if isinstance(value, str | bytes):
            value = read.parse(value, LONGEST_JSON, "session")
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            raise ValueError(f'format: expected "{FORMAT}": this is no session of sam_hf')
        if read.whole(value.get("version"), "version", 0, 10**9) != VERSION:
            raise ValueError(f"version: expected {VERSION}, the one that this sam_hf reads, got {value['version']}")
        keys = ("format", "version", "image", "checkpoint", "objects")
        given = read.fields(value, "", keys, ("image", "objects"))
        image = read.fields(given["image"], "image", ("name", "size", "sha256"), ("size",))
        sides = read.items(image["size"], "image.size", 2)
        size = tuple(read.whole(side, f"image.size[{index}]", 1, MOST_PIXELS) for index, side in enumerate(sides))
        if len(size) != 2 or size[0] * size[1] > MOST_PIXELS:
            raise ValueError(f"image.size: expected [height, width] of at most {MOST_PIXELS:,} pixels, got {size}")
        sha256 = image.get("sha256")
        objects = read.items(given["objects"], "objects", MOST_OBJECTS)
        return cls(
            size,
            tuple(SessionObject.from_json(one, size, f"objects[{index}]") for index, one in enumerate(objects)),
            read.text(_or(given.get("checkpoint"), "tiny"), "checkpoint", LONGEST_NAME),
            read.text(_or(image.get("name"), ""), "image.name", LONGEST_NAME),
            None
            if sha256 is None
            else read.matching(sha256, "image.sha256", "[0-9a-f]{64}", "64 digits 0-9, a-f, or null"),
        )

    def to_json(self) -> dict[str, Any]:
        """The session as JSON has it, with every key; `from_json` reads it back as the same value."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "image": {"name": self.image_name, "size": list(self.size), "sha256": self.image_sha256},
            "checkpoint": self.checkpoint,
            "objects": [one.to_json() for one in self.objects],
        }


def read_steps(value: Any, size: tuple[int, int], path: str = "steps") -> tuple[Step, ...]:
    """Reads the steps of one object.

    Args:
        value: Parsed JSON, a list.
        size: (H,W) of the picture.
        path: What error messages call it.

    Raises:
        ValueError: See `Step.from_json`; or the first step builds on one before.
    """
    given = read.items(value, path, MOST_STEPS)
    steps = tuple(Step.from_json(one, size, f"{path}[{index}]") for index, one in enumerate(given))
    if steps and steps[0].previous and steps[0].brush is None:
        raise ValueError(f"{path}[0].previous: there is no step before the first one")
    return steps


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _read_box(value: Any, path: str) -> tuple[float, float, float, float]:
    left, top, right, bottom = read.numbers(value, path, 4, FARTHEST)
    if left >= right or top >= bottom:
        raise ValueError(f"{path}: expected x0 < x1 and y0 < y1, got {[left, top, right, bottom]}")
    return left, top, right, bottom


def _read_phrase(value: Any, path: str) -> str:
    if not read.text(value, path, LONGEST_TEXT).strip():
        raise ValueError(f"{path}: expected a phrase or null, got a blank one")
    return value
