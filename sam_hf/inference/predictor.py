"""One image, many prompts: the model behind calls in original pixels, numpy arrays out.

`encode` and `decode` hold no state and are what servers want; `set_image` and `predict` are Meta's calls on top.

Source: segment-anything's `SamPredictor`. Differs in: text prompts; several prompts in one call, each with its own
kinds; embeddings are values that are kept in a bounded store; one predictor serves many threads.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from sam_hf.inference.embedding_store import EmbeddingStore, ImageEmbedding, content_key
from sam_hf.inference.fingerprint import WeightsWatch
from sam_hf.inference.prompt_messages import in_our_words, said_of_one_prompt
from sam_hf.model.checkpoint_names import resolve
from sam_hf.model.hub_access import pinned
from sam_hf.model.image_loading import load_image_tensor
from sam_hf.model.modeling_sam import SamModel
from sam_hf.model.processing_sam import SamProcessor

# Prompts decoded at once, so that memory stays bounded however many are asked.
PROMPTS_AT_ONCE = 64
PHRASES_KEPT = 4096


class Prediction(NamedTuple):
    """Answer to one prompt; with `predict_batch` and `decode_batch`, to P prompts, with P in front of every shape.

    Attributes:
        masks: (M,H,W) booleans in original pixels; float32 logits if these were asked for. M is 3, or 1 without
            `multimask_output`.
        scores: (M,) float32, the model's estimate of each mask's IoU.
        low_res_logits: (M,4h,4w) float32, the frame of the model's padded input; a later call's `mask_input`.
    """

    masks: np.ndarray
    scores: np.ndarray
    low_res_logits: np.ndarray


class SamPredictor:
    """Segments what points, boxes, masks and phrases point at.

    Thread safety: `encode` and `decode` may be called by any number of threads. The image of `set_image` belongs to
    the thread that set it: other threads neither see nor change it, so nobody gets an answer about another's picture.
    To use one image from several threads, hand them the `ImageEmbedding`.

    Args:
        model: A `SamModel`; it is put into eval mode, and again whenever it is found in training mode.
        processor: Its processor.
        store: Where embeddings are kept; None: a store of its own, 256 MiB in memory.

    Example:
        >>> predictor = SamPredictor.from_pretrained("tiny")
        >>> predictor.set_image(image)
        >>> masks, scores, low_res_logits = predictor.predict(np.array([[450, 600]]), np.array([1]))
    """

    def __init__(self, model: SamModel, processor: SamProcessor, store: EmbeddingStore | None = None):
        self._model = model.eval()
        self.processor = processor
        self.store = EmbeddingStore() if store is None else store
        self._settings = json.dumps(processor.image_processor.to_dict(), sort_keys=True, default=str)
        self._encoder = WeightsWatch(model.vision_encoder)
        self._decoder = WeightsWatch(nn.ModuleList([model.prompt_encoder, model.mask_decoder]))
        self._current = threading.local()
        self._phrases = _PhraseCache(model)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        store: EmbeddingStore | None = None,
        **kwargs: Any,
    ) -> "SamPredictor":
        """Loads model and processor.

        Args:
            pretrained_model_name_or_path: A Hub id, a folder, or "tiny", the embedded checkpoint.
            device: Where to run; None: CUDA or Apple's GPU if there is one, else the CPU.
            dtype: Precision of the model, such as torch.bfloat16 or "bfloat16"; None: float32.
            store: See the class.
            **kwargs: For both `from_pretrained`, such as `revision`, `cache_dir`, `token`, `local_files_only`.

        Raises:
            ValueError: If `device` or `dtype` does not exist here, or weights are missing or damaged.
            OSError: If there is no such checkpoint, or it cannot be reached.
        """
        device, dtype = read_device(device), read_dtype(dtype)
        with pinned(resolve(pretrained_model_name_or_path), kwargs) as options:  # both of one commit
            model, found = SamModel.from_pretrained(
                pretrained_model_name_or_path, dtype=dtype, output_loading_info=True, **options
            )
            processor = SamProcessor.from_pretrained(pretrained_model_name_or_path, **options)
        if found["missing_keys"]:
            missing = sorted(found["missing_keys"])
            raise ValueError(
                f"the checkpoint {str(pretrained_model_name_or_path)!r} lacks {len(missing)} weights of its "
                f"{type(model.config).__name__}, such as {missing[0]!r}: its answers would be random"
            )
        return cls(model.to(device), processor, store)

    @property
    def model(self) -> SamModel:
        """The model, in eval mode: batch statistics and dropout have no place in an answer."""
        return self._model.eval() if self._model.training else self._model

    def __reduce__(self) -> tuple:
        """For copies and other processes: what was encoded and set stays behind."""
        return type(self), (self._model, self.processor, self.store)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The model's precision; answers are float32 all the same."""
        return self.model.dtype

    @property
    def revision(self) -> str:
        """Fingerprint of the image encoder's weights as they are now."""
        return self._encoder.fingerprint()

    @property
    def decoder_revision(self) -> str:
        """Fingerprint of the weights that answer prompts: prompt encoder and mask decoder as they are now."""
        return self._decoder.fingerprint()

    def require_text(self) -> None:
        """Raises a ValueError that says what to do if this checkpoint cannot read text."""
        if self.model.config.text_config is None:
            raise ValueError(
                "text: this checkpoint has no text branch; ask a SamTextSegmenter, which takes phrases on any "
                "checkpoint by a CLIP (its choose_mask says which of a click's masks a phrase means), use a "
                'checkpoint that has one, such as the embedded "tiny", or prompt with points, a box or a mask'
            )

    @property
    def has_alignment(self) -> bool:
        """Whether this checkpoint says by itself where phrases are, see `SamModel.get_text_alignment`."""
        return self.model.prompt_encoder.text_alignment is not None

    @torch.inference_mode()
    def text_vectors(self, text: Sequence[str]) -> torch.Tensor:
        """What the checkpoint's text branch makes of P phrases: (P,D) unit norm, in CLIP's joint space.

        Raises:
            ValueError: If this checkpoint cannot read text, or a phrase is blank.
        """
        self.require_text()
        tokens = self.processor(original_sizes=[(1, 1)], text=[list(text)], return_tensors="pt")  # of any picture
        return self._phrases.embed(*(tokens[name].to(self.device) for name in ("input_ids", "attention_mask")))[0]

    # --- stateless -----------------------------------------------------------------------------------------------

    def encode(self, image: Any, image_format: str = "RGB") -> ImageEmbedding:
        """Embeds an image, or finds its embedding in the store.

        Args:
            image: A PIL image of any mode, an array or tensor (H,W,3) or (3,H,W) (see `sam_hf.model.image_loading`),
                or a path.
            image_format: "RGB", or "BGR" for arrays as OpenCV makes them.

        Raises:
            ValueError: If the image or its format is not one of these.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be 'RGB' or 'BGR'; got {image_format!r}")
        pixels = load_image_tensor(image, where="image")  # (3,H,W)
        if image_format == "BGR":
            pixels = pixels.flip(0)
        revision = self.revision
        key = self._key(pixels, revision)
        return self.store.get_or_encode(key, lambda: self._encode(pixels, key, revision))

    def find(self, image: Any) -> ImageEmbedding | None:
        """The embedding of an RGB image if the store has it; see `encode`."""
        return self.store.get(self._key(load_image_tensor(image, where="image"), self.revision))

    def _key(self, pixels: torch.Tensor, revision: str) -> str:
        return content_key(pixels, self._settings, f"{revision} {self.dtype}")

    @torch.inference_mode()
    def _encode(self, pixels: torch.Tensor, key: str, revision: str) -> ImageEmbedding:
        # Floats reach us on the scale to 255, which a nearly black picture would not show: say it by the scale to 1.
        images = pixels / 255 if pixels.is_floating_point() else pixels
        inputs = self.processor(images=images, return_tensors="pt")
        embedding = self.model.get_image_embeddings(inputs["pixel_values"].to(self.device, self.dtype))
        original, resized = (
            tuple(int(side) for side in inputs[name][0]) for name in ("original_sizes", "reshaped_input_sizes")
        )
        return ImageEmbedding(embedding, original, resized, key, revision)

    def decode(
        self,
        embedding: ImageEmbedding,
        points: Any = None,
        labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
        text: str | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        full_size: bool = True,
    ) -> Prediction:
        """Answers one prompt on an encoded image; all kinds given describe one object.

        Args:
            embedding: From `encode` of a predictor with the same weights.
            points: (N,2) xy, original pixels, fractions and points outside the image allowed.
            labels: (N,) 1 foreground, 0 background; None: all foreground.
            box: (4,) xyxy, original pixels.
            mask_input: (1,4h,4w) logits, such as `low_res_logits[best][None]` of an earlier answer; or (H,W) booleans
                in original pixels.
            text: A phrase, if the checkpoint has a text branch.
            multimask_output: Three masks, for an ambiguous prompt, or a single one.
            return_logits: Logits in original pixels instead of booleans.
            full_size: False: `masks` is empty, (M,0,0); for a mask that only the next prompt builds on.

        Raises:
            ValueError: If a prompt has the wrong shape, there is none, or the checkpoint cannot take it.
        """
        with said_of_one_prompt():
            answer = self.decode_batch(
                embedding,
                points=None if points is None else [points],
                labels=None if labels is None else [labels],
                boxes=None if box is None else [box],
                mask_input=None if mask_input is None else [mask_input],
                text=None if text is None else [text],
                multimask_output=multimask_output,
                return_logits=return_logits,
                full_size=full_size,
            )
        return Prediction(*(values[0] for values in answer))

    def check(
        self,
        embedding: ImageEmbedding,
        points: Any = None,
        labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
    ) -> None:
        """Checks the geometry of one prompt as `decode` does, without an answer.

        Raises:
            ValueError, TypeError: See `decode`.
        """
        given = (None if value is None else [value] for value in (points, labels, box, mask_input))
        with said_of_one_prompt():
            self._model_inputs(embedding, *given, text=None)

    @torch.inference_mode()
    def decode_batch(
        self,
        embedding: ImageEmbedding,
        points: Sequence[Any] | None = None,
        labels: Sequence[Any] | None = None,
        boxes: Sequence[Any] | None = None,
        mask_input: Sequence[Any] | None = None,
        text: Sequence[str | None] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        full_size: bool = True,
    ) -> Prediction:
        """Answers P prompts on one encoded image; prompt p is made of the p-th entries, None where it has none.

        Args:
            embedding: See `decode`, as for the rest.
            points: (P,N,2), or P arrays with their own N.
            labels: (P,N), or P arrays.
            boxes: (P,4), or P boxes.
            mask_input: (P,1,4h,4w), or P arrays.
            text: P phrases.
            multimask_output: Three masks per prompt or one.
            return_logits: Logits instead of booleans.
            full_size: See `decode`.

        Returns:
            masks (P,M,H,W), scores (P,M), low_res_logits (P,M,4h,4w); the same as P single calls.
        """
        if not isinstance(embedding, ImageEmbedding):
            raise TypeError(f"embedding must be an ImageEmbedding, from encode(); got {type(embedding).__name__}")
        if embedding.revision != self.revision:
            raise ValueError("embedding was made by other encoder weights than these: call encode(image) again")
        inputs = self._model_inputs(embedding, points, labels, boxes, mask_input, text)
        features = embedding.tensor.to(self.device, self.dtype)
        count = next(iter(inputs.values())).shape[1]
        answers = []
        for start in range(0, count, PROMPTS_AT_ONCE):
            some = {name: values[:, start : start + PROMPTS_AT_ONCE] for name, values in inputs.items()}
            output = self.model(image_embeddings=features, multimask_output=multimask_output, **some)
            low_res = output.pred_masks.float()  # (1,P,M,4h,4w)
            if full_size:
                full = self.processor.post_process_masks(
                    low_res, [embedding.original_size], [embedding.input_size], binarize=not return_logits
                )[0]
            else:
                full = low_res[0, :, :, :0, :0] > 0
            answers.append([full.cpu().numpy(), output.iou_scores[0].float().cpu().numpy(), low_res[0].cpu().numpy()])
        return Prediction(*(np.concatenate(parts) for parts in zip(*answers, strict=True)))

    def _model_inputs(
        self, embedding: ImageEmbedding, points: Any, labels: Any, boxes: Any, masks: Any, text: Any
    ) -> dict[str, torch.Tensor]:
        given = {"points": points, "labels": labels, "boxes": boxes, "mask_input": masks, "text": text}
        if all(values is None for name, values in given.items() if name != "labels"):
            raise ValueError("expected at least one prompt: points, a box, a mask_input or text; got none")
        if text is not None:
            self.require_text()
        of_image = {name: None if values is None else [values] for name, values in given.items()}
        try:
            inputs = self.processor(
                original_sizes=[embedding.original_size],
                input_points=of_image["points"],
                input_labels=of_image["labels"],
                input_boxes=of_image["boxes"],
                input_masks=of_image["mask_input"],
                text=of_image["text"],
                return_tensors="pt",
            )
        except (TypeError, ValueError) as error:
            raise type(error)(in_our_words(str(error))) from error
        tensors = {name: values.to(self.device) for name, values in inputs.items() if not name.endswith("_sizes")}
        if not tensors:
            raise ValueError("expected at least one prompt; got only None")
        if "input_ids" in tensors:
            tensors["text_embeds"] = self._phrases.embed(tensors.pop("input_ids"), tensors.pop("attention_mask"))
        return tensors

    # --- Meta's calls --------------------------------------------------------------------------------------------

    def set_image(self, image: Any, image_format: str = "RGB") -> None:
        """Makes an image the one that this thread's `predict` answers about; see `encode`."""
        self._current.embedding = self.encode(image, image_format)

    def predict(
        self,
        point_coords: Any = None,
        point_labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        text: str | None = None,
    ) -> Prediction:
        """Answers one prompt on the image of `set_image`; see `decode`.

        Raises:
            RuntimeError: If this thread has not set an image.
        """
        return self.decode(
            self.features, point_coords, point_labels, box, mask_input, text, multimask_output, return_logits
        )

    def predict_batch(
        self,
        point_coords: Sequence[Any] | None = None,
        point_labels: Sequence[Any] | None = None,
        boxes: Sequence[Any] | None = None,
        mask_input: Sequence[Any] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        text: Sequence[str | None] | None = None,
    ) -> Prediction:
        """Answers P prompts on the image of `set_image`; see `decode_batch`."""
        return self.decode_batch(
            self.features, point_coords, point_labels, boxes, mask_input, text, multimask_output, return_logits
        )

    def reset_image(self) -> None:
        """Forgets this thread's image; the store keeps its embedding."""
        self._current.embedding = None

    @property
    def is_image_set(self) -> bool:
        """Whether this thread has set an image."""
        return getattr(self._current, "embedding", None) is not None

    @property
    def features(self) -> ImageEmbedding:
        """The embedding of this thread's image."""
        embedding = getattr(self._current, "embedding", None)
        if embedding is None:
            raise RuntimeError(
                "no image is set in this thread: call set_image(image) first, "
                "or share the result of encode(image) between threads and call decode(embedding, ...)"
            )
        return embedding

    @property
    def original_size(self) -> tuple[int, int]:
        """(H,W) of this thread's image, original pixels."""
        return self.features.original_size

    @property
    def input_size(self) -> tuple[int, int]:
        """(H,W) that this thread's image was resized to."""
        return self.features.input_size

    def get_image_embedding(self) -> torch.Tensor:
        """(1,C,h,w) features of this thread's image."""
        return self.features.tensor


class _PhraseCache:
    """Vectors of the phrases asked last; users repeat themselves, and the text tower is the slow part of a phrase."""

    def __init__(self, model: SamModel):
        self._model = model
        self._watch = WeightsWatch(model.prompt_encoder)
        self._lock = threading.Lock()
        self._vectors: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._state: tuple = ()

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(1,P,T) tokens -> (1,P,D), all NaN where a prompt has no text."""
        # A row of zeros, which means no text, is a phrase like any other here: the model answers NaN.
        phrases = [row.cpu().numpy().tobytes() for row in torch.cat([input_ids, attention_mask], dim=-1)[0]]
        state = self._watch.state()
        with self._lock:
            if state != self._state:  # the weights have changed
                self._vectors.clear()
                self._state = state
            known = {phrase: self._vectors[phrase] for phrase in phrases if phrase in self._vectors}
        new = {phrase: row for row, phrase in enumerate(phrases) if phrase not in known}
        if new:
            rows = list(new.values())
            vectors = self._model.get_text_embeds(input_ids[:, rows], attention_mask[:, rows])[0]
            known |= dict(zip(new, vectors, strict=True))
        with self._lock:
            if state == self._state:
                for phrase in phrases:
                    self._vectors[phrase] = known[phrase]
                    self._vectors.move_to_end(phrase)
                while len(self._vectors) > PHRASES_KEPT:
                    self._vectors.popitem(last=False)
        return torch.stack([known[phrase] for phrase in phrases])[None]


def read_device(device: str | torch.device | None) -> torch.device:
    """The device of a name; None: CUDA or Apple's GPU if there is one, else the CPU.

    Raises:
        ValueError: If there is no such device.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device must be a torch device such as 'cpu' or 'cuda'; got {device!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} was asked for, but no CUDA device is available")
    return device


def read_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """The precision of a name; None: float32.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype.removeprefix("torch."), None)
    elif dtype is None:
        return torch.float32
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError("dtype must be a floating-point torch.dtype or its name, such as 'bfloat16'")
    return dtype
