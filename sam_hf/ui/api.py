"""What the app answers: stateless, typed endpoints for its own page, for programs (REST, gradio_client) and for MCP.

An `image` is an uploaded file (Gradio's FileData), `{"picture": id}` of one that `embed` has opened, or
`{"example": name}`. Coordinates are xy in original pixels: of the picture turned upright by its EXIF orientation.
Masks are COCO's compressed run lengths of the picture's size, `{"size": [H, W], "counts": str}`. Whatever is wrong
with a request is said in one sentence, see `answers`.

Nothing is kept about who asks. Encoding is one at a time and so is everything mode; what answers a click waits for
neither, and neither do pictures that are known. Who waits for a checkpoint to be loaded, or for their turn to encode,
waits without a thread.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import gradio as gr
import numpy as np
import torch
from anyio import to_thread

import sam_hf
from sam_hf.inference import json_fields as read
from sam_hf.inference.mask_generation import SamAutomaticMaskGenerator
from sam_hf.inference.session import Step, decode_steps, read_steps, replay_each
from sam_hf.inference.session_format import LONGEST_TEXT, PromptSession
from sam_hf.inference.text.instances import TextInstance
from sam_hf.inference.text.naming import name_masks
from sam_hf.inference.text.segmenter import AMOUNTS
from sam_hf.masks import rle as run_lengths
from sam_hf.masks.boxes import mask_to_xywh
from sam_hf.ui.answers import endpoint
from sam_hf.ui.checkpoints import Checkpoints
from sam_hf.ui.exporting import array_file, check_replay, export_objects, refine_mask
from sam_hf.ui.opening import Opening
from sam_hf.ui.pictures import PictureStore
from sam_hf.ui.served_files import serve

MOST_PHRASES, MOST_STEPS_OF_CLIP = 32, 32
GROUNDINGS = ("auto", "learned", "dense", "proposals")
QUICK = {"concurrency_id": "quick", "concurrency_limit": 8}
ALONE, MOST_OPENING = 1, 12


class Api:
    """The endpoints of one app.

    Args:
        checkpoints: What may be asked for.
        pictures: What is open; None: a store of its own.
        examples: Picture files by the name that requests call them.
    """

    def __init__(
        self, checkpoints: Checkpoints, pictures: PictureStore | None = None, examples: dict[str, Path] | None = None
    ):
        self._checkpoints = checkpoints
        self.pictures = PictureStore() if pictures is None else pictures
        self._opening = Opening(checkpoints, self.pictures, examples or {})
        self.prepare = self._opening.prepare
        self._exporting = anyio.CapacityLimiter(2)

    def register(self) -> None:
        """Makes the methods endpoints of the `gr.Blocks` that is being built."""
        for function, how in (
            (self.checkpoints, {"queue": False}),
            (self.decoder, {"concurrency_id": "decoder", "concurrency_limit": MOST_OPENING}),
            (self.embed, {"concurrency_id": "open", "concurrency_limit": MOST_OPENING}),
            (self.segment, QUICK),
            (self.phrase, QUICK),
            (self.refine, {"concurrency_id": "outlines", "concurrency_limit": 2}),
            (self.segment_text, {"concurrency_id": "text", "concurrency_limit": 2}),
            (self.everything, {"concurrency_id": "everything", "concurrency_limit": ALONE}),
            (self.export, {"concurrency_id": "files", "concurrency_limit": 2}),
            (self.replay, {"concurrency_id": "replay", "concurrency_limit": ALONE}),
        ):
            gr.api(function, api_name=function.__name__, **how)

    # --- models and pictures -------------------------------------------------------------------------------------

    @endpoint
    def checkpoints(self) -> dict:
        """Lists the checkpoints that can be asked for.

        Returns:
            checkpoints: of each name, title, has_text, device, dtype, parameters, state (loading, ready or failed);
            default: the name of the one that is used where none is given; version: of sam_hf.
        """
        described = self._checkpoints.describe()
        return {"checkpoints": described, "default": self._checkpoints.default, "version": sam_hf.__version__}

    @endpoint
    async def decoder(self, checkpoint: str | None = None) -> dict:
        """Gives the ONNX files with which a browser decodes prompts by itself.

        Args:
            checkpoint: A name from /checkpoints; default: its default.

        Returns:
            per_image: file, run once per picture, takes the embedding as float16; per_click: file, run at each click;
            image_size: longest side of the resized picture; grid: [h, w] and channels: C of the embedding;
            text_width: D of text vectors, 0 without a text branch.
        """
        chosen = await self._opening.when_loaded(checkpoint)
        found = self._checkpoints.made_decoder(chosen.name)
        if found is None:
            found = await to_thread.run_sync(self._checkpoints.decoder, chosen.name, limiter=self._exporting)
        files = {
            name: await to_thread.run_sync(lambda place: serve(place.read_bytes(), place.name), place)
            for name, place in (("per_image", found.per_image), ("per_click", found.per_click))
        }
        return {
            **files,
            "image_size": found.image_size,
            "grid": list(found.grid),
            "channels": found.channels,
            "text_width": found.text_width,
        }

    @endpoint
    async def embed(self, image: dict, checkpoint: str | None = None) -> AsyncIterator[dict]:
        """Opens a picture: reads it, encodes it, and keeps it for an hour after its last use.

        Args:
            image: An uploaded picture (PNG, JPEG, WebP, TIFF, BMP, GIF; at most 20 MB and 50 megapixels), or
                {"picture": id} of one that is open, for another checkpoint.
            checkpoint: A name from /checkpoints; default: its default.

        Returns:
            Steps {"stage": "loading" | "reading" | "encoding"}, at the end stage "ready" with picture: the id to ask
            about it; size: [H, W], original pixels; resized: [h, w], what the model saw; image: file to show, upright,
            longest side at most 2048; embedding: file of raw little-endian float16 of the shape [1, C, h, w];
            checkpoint; name.
        """
        async for step in self._opening.open(image, checkpoint):
            yield step

    # --- prompts -------------------------------------------------------------------------------------------------

    @endpoint
    def segment(
        self,
        image: dict,
        checkpoint: str | None = None,
        steps: list[dict] | None = None,
        return_logits: bool = False,
        points: list[list[float]] | None = None,
        labels: list[int] | None = None,
        box: list[float] | None = None,
        text: str | None = None,
    ) -> dict:
        """Segments one object, described by points, a box, a painted mask and text, alone or together.

        Give the prompts themselves (points, labels, box, text), or the steps of a session, each with all prompts of
        its moment; the last one is answered, earlier ones count where `previous` builds on them.

        Args:
            image: An uploaded picture, or {"picture": id} from /embed.
            checkpoint: A name from /checkpoints; default: its default.
            steps: [{"points", "labels", "box", "text", "brush", "previous", "selected"}, ...]: brush is a mask as RLE,
                previous whether the mask selected in the step before is built on, selected which of its masks was
                chosen (0 to 2; null: the best).
            return_logits: Also give low-resolution logits as a file, .npy (M, 4h, 4w) float32.
            points: [[x, y], ...] in original pixels, at most 256.
            labels: Of each point 1, on the object, or 0, beside it; default: all 1.
            box: [left, top, right, bottom] in original pixels.
            text: A phrase that names the object.

        Returns:
            masks: three for an ambiguous prompt, else one, each with rle, score (estimated IoU), area in pixels, bbox
            [x, y, width, height]; selected: index of the best or chosen one; steps: how many there were.
        """
        chosen, opened = self._opening.opened(image, checkpoint)
        given = {"points": points, "labels": labels, "box": box, "text": text}
        given = {name: value for name, value in given.items() if value is not None}
        if steps is not None and given:
            raise ValueError(
                f"steps: expected either steps or prompts by themselves; got both, {', '.join(given)} too"
            )
        size = opened.file.size
        read_in = read_steps(steps, size) if steps is not None else (Step.from_json(given, size, "prompt"),)
        asks_clip = not chosen.has_text and any(step.text is not None for step in read_in)
        if asks_clip and len(read_in) > MOST_STEPS_OF_CLIP:
            raise ValueError(
                f"steps: expected at most {MOST_STEPS_OF_CLIP} with text for a checkpoint without a text branch"
            )
        helpers = (chosen.segmenter, opened.file.open()) if asks_clip else ()
        answer = decode_steps(chosen.predictor, opened.embedding, read_in, *helpers)
        result = {
            "masks": [_mask(mask, score) for mask, score in zip(answer.masks, answer.scores, strict=True)],
            "selected": int(answer.selected),
            "steps": len(read_in),
        }
        if return_logits:
            result["logits"] = serve(array_file(answer.low_res_logits), "logits.npy")
        return result

    @endpoint
    def segment_text(
        self,
        image: dict,
        checkpoint: str | None = None,
        phrases: list[str] | None = None,
        negative: list[str] | None = None,
        grounding: str = "auto",
        instances: str = "auto",
    ) -> list[dict]:
        """Finds what phrases name, and says whether it is in the picture at all.

        Args:
            image: An uploaded picture, or {"picture": id} from /embed.
            checkpoint: A name from /checkpoints; default: its default.
            phrases: 1 to 32 phrases such as "a red mug", "two dogs", "the cup on the left".
            negative: Phrases of what is not meant.
            grounding: auto, learned, dense or proposals.
            instances: auto (all for a plural), one or all.

        Returns:
            Of each phrase: phrase, absent, presence (probability that it is there), calibrated, grounding, and
            instances, best first, each with rle, bbox [x, y, width, height], score, text_probability, predicted_iou,
            stability_score.
        """
        wanted = _phrases(phrases, "phrases")
        if not wanted:
            raise ValueError("phrases: expected at least one phrase, got none")
        unwanted = _phrases(negative, "negative")
        for name, value, known in (("grounding", grounding, GROUNDINGS), ("instances", instances, AMOUNTS)):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}; got {read.shown(value)}")
        chosen, opened = self._opening.opened(image, checkpoint)
        chosen.predictor.store.put(opened.embedding)  # where the segmenter looks for it
        answers = chosen.segmenter.segment(
            opened.file.open(), wanted, unwanted, grounding=grounding, instances=instances
        )
        return [
            {
                "phrase": answer.phrase,
                "absent": bool(answer.absent),
                "presence": float(answer.presence),
                "calibrated": bool(answer.calibrated),
                "grounding": answer.grounding,
                "instances": [_instance(one) for one in answer.instances],
            }
            for answer in answers
        ]

    @endpoint
    def phrase(self, text: str, checkpoint: str | None = None) -> dict:
        """Gives the vector of a phrase, the `text_embeds` of the browser's decoder.

        Args:
            text: A phrase.
            checkpoint: A name from /checkpoints; default: its default.

        Returns:
            embedding: D numbers, or null where the checkpoint has no text branch; note: why, or null.
        """
        (wanted,) = _phrases([text], "text")
        chosen = self._opening.loaded(checkpoint)
        if not chosen.has_text:
            return {"embedding": None, "note": f"{chosen.name} has no text branch: phrases are looked for by a CLIP"}
        vector = chosen.predictor.text_vectors([wanted])[0]
        return {"embedding": vector.float().cpu().tolist(), "note": None}

    @endpoint
    def everything(
        self,
        image: dict,
        checkpoint: str | None = None,
        points_per_side: int = 32,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        min_mask_region_area: int = 0,
        text: list[str] | None = None,
    ) -> Iterator[dict]:
        """Finds all masks of a picture; cancelling stops it at the next batch of points.

        Args:
            image: An uploaded picture, or {"picture": id} from /embed.
            checkpoint: A name from /checkpoints; default: its default.
            points_per_side: Points asked about per side, 1 to 64.
            pred_iou_thresh: Least estimated IoU of a mask, 0 to 1.
            stability_score_thresh: Least stability of a mask, 0 to 1.
            min_mask_region_area: Smaller holes and islands go, pixels.
            text: Names to choose from: each mask gets one as its label, or "other".

        Returns:
            Steps with done and total points; at the end final: true and records in SA-1B's form: segmentation (RLE),
            area, bbox [x, y, width, height], predicted_iou, point_coords, stability_score, crop_box; with text also
            label and label_probability.
        """
        options = {
            "points_per_side": read.whole(points_per_side, "points_per_side", 1, 64),
            "pred_iou_thresh": read.number(pred_iou_thresh, "pred_iou_thresh", 0, 1),
            "stability_score_thresh": read.number(stability_score_thresh, "stability_score_thresh", 0, 1),
            "min_mask_region_area": read.whole(min_mask_region_area, "min_mask_region_area", 0, 50_000_000),
        }
        names = _phrases(text, "text")
        chosen, opened = self._opening.opened(image, checkpoint)
        generator = SamAutomaticMaskGenerator.from_predictor(chosen.predictor, output_mode="coco_rle", **options)
        clip = generator.prepare_names(names, None if chosen.has_text else chosen.clip) if names else None
        chosen.predictor.store.put(opened.embedding)  # where the generator looks for it
        for step in generator.stream(opened.file.open(), previews=False):
            if not step.final:
                yield {"done": step.done, "total": step.total, "records": [], "final": False}
        records = step.records
        if clip is not None:
            records = name_masks(clip, torch.from_numpy(opened.file.rgb()).permute(2, 0, 1), records, names)
        yield {"done": step.total, "total": step.total, "records": records, "final": True}

    # --- results -------------------------------------------------------------------------------------------------

    @endpoint
    def refine(
        self, rle: dict, fill_holes: float = 0, drop_islands: float = 0, polygon_detail: float | None = None
    ) -> dict:
        """Fills small holes of a mask, drops small islands, and draws its outline as polygons.

        Args:
            rle: The mask.
            fill_holes: Holes of fewer pixels are filled.
            drop_islands: Islands of fewer pixels are dropped; the largest stays.
            polygon_detail: 0 (coarse) to 1 (every pixel); null: no polygons.

        Returns:
            rle; polygons: [[x, y, x, y, ...], ...]; area in pixels; bbox [x, y, width, height].
        """
        return refine_mask(rle, fill_holes, drop_islands, polygon_detail)

    @endpoint
    def export(
        self,
        image: dict,
        checkpoint: str | None = None,
        objects: list[dict] | None = None,
        format: str = "coco",
        name: str = "",
    ) -> dict:
        """Writes objects as a file that other programs read.

        Args:
            image: An uploaded picture, or {"picture": id} from /embed.
            checkpoint: A name from /checkpoints; default: its default.
            objects: [{"rle", "name", "color", "score", "steps", ...}, ...], as a session has them.
            format: png (a ZIP where there are several objects), index_png, cutout, zip, coco, coco_rle (no polygons),
                sa1b, yolo, labelme, svg, geojson, session; background (the objects cut out; none: what a box over the
                whole picture gives); npy and safetensors (the image embedding).
            name: What the picture's file is called; default: as it was uploaded.

        Returns:
            The file.
        """
        chosen, opened = self._opening.opened(image, checkpoint)
        content, file_name = export_objects(chosen, opened, objects, format, name)
        return serve(content, file_name)

    @endpoint
    def replay(self, image: dict, session: dict) -> Iterator[dict]:
        """Does a stored prompt session again; cancelling stops it at the next object.

        Args:
            image: An uploaded picture, or {"picture": id} from /embed.
            session: What the page exports as session JSON.

        Returns:
            Steps with done and total objects; at the end final: true, checkpoint, and objects: of each name, rle,
            score (null without steps), iou with the stored mask (null without one).
        """
        known = PromptSession.from_json(session)
        check_replay(known)
        name = known.checkpoint if known.checkpoint in self._checkpoints.names else None
        chosen, opened = self._opening.opened(image, name)
        chosen.predictor.store.put(opened.embedding)  # where replaying looks for it
        helper = None if chosen.has_text else chosen.segmenter
        total, objects = len(known.objects), []
        for one in replay_each(chosen.predictor, opened.file.open(), known, helper):
            objects.append({"name": one.kept.name, "rle": dict(one.rle), "score": one.score, "iou": one.iou})
            yield {"done": len(objects), "total": total, "objects": [], "final": False}
        yield {"done": total, "total": total, "objects": objects, "checkpoint": chosen.name, "final": True}


def _phrases(given: Any, name: str) -> list[str]:
    texts = read.items([] if given is None else given, name, MOST_PHRASES)
    for index, text in enumerate(texts):
        if not read.text(text, f"{name}[{index}]", LONGEST_TEXT).strip():
            raise ValueError(f"{name}[{index}]: expected a phrase, got a blank one")
    return list(texts)


def _mask(mask: np.ndarray, score: float) -> dict[str, Any]:
    bbox = mask_to_xywh(mask).tolist()
    return {"rle": run_lengths.encode(mask), "score": float(score), "area": int(mask.sum()), "bbox": bbox}


def _instance(instance: TextInstance) -> dict[str, Any]:
    left, top, right, bottom = instance.box
    return {
        "rle": run_lengths.encode(instance.mask),
        "bbox": [left, top, right - left, bottom - top],
        "score": instance.score,
        "text_probability": instance.text_probability,
        "predicted_iou": instance.predicted_iou,
        "stability_score": instance.stability,
    }
