"""CLIP behind three calls: phrases, small pictures and the places of a large picture, all as vectors of one space.

What was computed is kept: vectors of phrases, bounded in number, and maps of pictures and vectors of masks, each
bounded in bytes. Results lie on the CPU in float32 whatever the model's device and precision.

Source: Radford et al. 2021 (arXiv 2103.00020); the models are open_clip's.
"""

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_hf.inference.embedding_store import EmbeddingStore, ImageEmbedding, content_key
from sam_hf.inference.fingerprint import WeightsWatch
from sam_hf.inference.predictor import SamPredictor, read_device, read_dtype
from sam_hf.inference.text.dense_features import ATTENTIONS, dense_features, dense_size, patch_size
from sam_hf.inference.text.templates import PHOTO, PLAIN, clean_phrases, fill
from sam_hf.model.clip_beside import clip_beside
from sam_hf.model.clip_loading import A_CLIP, load_clip
from sam_hf.model.text_encoder import CLIP_VOCABULARY, import_open_clip
from sam_hf.model.text_prompts import UnreadablePhrase, quoted, tokenizer_for

TEXTS_AT_ONCE = 128
TEXTS_KEPT = 4096
MAPS_BYTES = 2**27
MASKS_BYTES = 2**24  # some thousand masks
# Side of a dense map's picture where none is asked for: towers for smaller pictures see too coarsely at their own
# size (`sam-hf evaluate text --option dense.size=...` compares).
DENSE_SIZE, FINE_ENOUGH = 384, 320
# SCLIP's and NACLIP's. CLIP's own, mostly 100, is for pooled vectors, whose similarities are surer than single cells'.
CELL_SCALE = 40.0


class ClipEncoder:
    """Phrases and pictures -> unit vectors.

    Thread safety: every call may come from any number of threads.

    Args:
        clip: An open_clip model; it is put into eval mode.
        tokenizer: Its tokenizer: open_clip's, or `SamTokenizer`. For a model with a cut vocabulary, as
            `sam_hf.training.clip` makes them, open_clip's is cut to fit.
        mean: Of its training pictures per channel, on the scale to 1.
        std: Their deviation.
        name: What to call it.

    Attributes:
        masks_seen: Where `ranking.mask_vectors` keeps what this CLIP saw in masks.

    Raises:
        ValueError: If it takes no square pictures.

    Example:
        >>> clip = ClipEncoder.from_pretrained("ViT-B-16-quickgelu/openai")
        >>> clip.pictures(views) @ clip.texts(["a cat", "a dog"]).T
    """

    def __init__(self, clip: nn.Module, tokenizer: Any, mean: Sequence[float], std: Sequence[float], name: str = ""):
        size = clip.visual.image_size
        height, width = (size, size) if isinstance(size, int) else size
        if height != width:
            raise ValueError(f"clip must take square pictures, got one for {height} x {width} pixels")
        self.clip = clip.eval()
        self.name, self.image_size = name, int(height)
        self._tokenizer = _fitting_tokenizer(tokenizer, clip)
        self._mean, self._std = (torch.tensor(values, dtype=torch.float32).view(3, 1, 1) for values in (mean, std))
        self._watch = WeightsWatch(clip)
        self._vectors: OrderedDict[tuple, tuple[Tensor, str]] = OrderedDict()
        self._maps = EmbeddingStore(max_bytes=MAPS_BYTES)
        self.masks_seen = EmbeddingStore(max_bytes=MASKS_BYTES)
        self._lock, self._tokenizing = threading.Lock(), threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike = "ViT-L-14-336-quickgelu/openai",
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        cache_dir: str | os.PathLike | None = None,
    ) -> "ClipEncoder":
        """Loads any CLIP that open_clip can load.

        Args:
            name: "ARCHITECTURE/TAG" of open_clip (a tag may be a file with weights), "hf-hub:ORG/NAME", a folder (or
                "local-dir:FOLDER") with `open_clip_config.json`, or "tiny", the embedded one.
            device: Where to run; None: CUDA or Apple's GPU if there is one, else the CPU.
            dtype: float32, float16 or bfloat16, or the name; None: float32.
            cache_dir: Where open_clip keeps what it fetches; None: its own place.

        Raises:
            ImportError: If open_clip is not installed.
            ValueError: If the name, device or dtype means nothing, or the weights do not fit.
            OSError: If there is no such folder, or the weights cannot be fetched.
        """
        loaded = load_clip(name, read_device(device), read_dtype(dtype), cache_dir)
        return cls(*loaded, name=os.fspath(name))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the image tower; results are float32 all the same."""
        return self._weight.dtype

    @property
    def revision(self) -> str:
        """Fingerprint of the weights as they are now."""
        return self._watch.fingerprint()

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines with before a softmax."""
        return float(self.clip.logit_scale.detach().float().exp())

    @property
    def logit_bias(self) -> float | None:
        """What is added to scaled cosines for the log-odds that a phrase is true of a picture; None of a model that
        was trained to compare only, and not by SigLIP's loss."""
        bias = getattr(self.clip, "logit_bias", None)
        return None if bias is None else float(bias.detach().float())

    @property
    def templates(self) -> tuple[str, ...]:
        """Sentences for phrases to stand in where nothing else is said: as this CLIP was trained to read them.

        One with a cut vocabulary was trained on bare phrases (`sam_hf.training.clip`), others on captions.
        """
        return PHOTO if self._reads_captions else PLAIN

    @property
    def dense_scale(self) -> float:
        """What similarities of cells are multiplied by before a softmax over texts: 40, or its own, as `templates`."""
        return CELL_SCALE if self._reads_captions else self.logit_scale

    @property
    def _reads_captions(self) -> bool:
        return getattr(self.clip, "vocab_size", CLIP_VOCABULARY) >= CLIP_VOCABULARY

    @property
    def has_dense_features(self) -> bool:
        """Whether `dense` can be asked; not of towers with attentional pools, and of timm."""
        try:
            patch_size(self.clip.visual)
        except ValueError:
            return False
        return True

    @cached_property
    def width(self) -> int:
        """D, the width of the joint space."""
        return len(self.texts(["thing"])[0])

    @property
    def _weight(self) -> Tensor:
        """The first convolution: layer norms may be in another precision."""
        weights = list(self.clip.visual.parameters())
        return next((weight for weight in weights if weight.ndim == 4), weights[0])

    # --- phrases -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def texts(self, phrases: Sequence[str], templates: Sequence[str] = PLAIN) -> Tensor:
        """Vectors of phrases; a phrase asked before costs nothing.

        Control characters count as spaces. A text longer than the model takes is cut, with a warning that quotes what
        was cut off.

        Args:
            phrases: n phrases, as people write them.
            templates: Sentences with "{}" where the phrase goes; the mean of their vectors counts.

        Returns:
            (n,D) float32 unit vectors, CPU.

        Raises:
            ValueError: If a phrase is empty, no Unicode text, or without any token (`UnreadablePhrase`), or a template
                has no "{}".
            TypeError: If something is not a string, or a single string was given for a list.
        """
        read, templates = clean_phrases(phrases, "phrases"), _read_templates(templates)
        if not read:
            return torch.zeros(0, self.width)
        revision = self.revision
        keys = [(revision, templates, phrase) for phrase in read]
        with self._lock:
            known = {key: self._vectors[key] for key in keys if key in self._vectors}
        new = list(dict.fromkeys(key for key in keys if key not in known))
        at_once = max(1, TEXTS_AT_ONCE // len(templates))
        for start in range(0, len(new), at_once):
            some = new[start : start + at_once]
            known |= zip(some, self._encode_phrases([key[2] for key in some], templates), strict=True)
        with self._lock:
            for key in dict.fromkeys(keys):
                self._vectors[key] = known[key]
                self._vectors.move_to_end(key)
            while len(self._vectors) > TEXTS_KEPT:
                self._vectors.popitem(last=False)
        for index, key in enumerate(keys):
            if cut := known[key][1]:
                message = f"phrases[{index}]: the text is too long for {self.name or 'this CLIP'}; this was cut off: "
                warnings.warn(f"{message}{quoted(cut)}", UserWarning, stacklevel=3)
        return torch.stack([known[key][0] for key in keys])

    def _encode_phrases(self, phrases: list[str], templates: tuple[str, ...]) -> list[tuple[Tensor, str]]:
        """Per phrase its vector (D,) and the end of it that did not fit, "" if all did."""
        with self._tokenizing:  # a fast tokenizer of transformers panics if two threads use it
            for phrase in phrases:
                if hasattr(self._tokenizer, "encode") and not self._tokenizer.encode(phrase):
                    raise UnreadablePhrase(f"phrases: expected a phrase, got no token from {phrase!r:.60}")
            # Up to the phrase: nobody misses what a sentence says after it.
            heads = {template[: template.index("{}") + 2] for template in templates}
            cuts = [
                max((_cut_off(self._tokenizer, fill(head, phrase)) for head in heads), key=len) for phrase in phrases
            ]
            ids = self._tokenizer([fill(template, phrase) for phrase in phrases for template in templates])
        ids = ids["input_ids"] if isinstance(ids, Mapping) else ids
        parts = [self.clip.encode_text(some.to(self.device)).float().cpu() for some in ids.split(TEXTS_AT_ONCE)]
        vectors = F.normalize(torch.cat(parts), dim=-1).unflatten(0, (len(phrases), len(templates)))
        # Cloned, so that what is kept of one phrase does not keep its whole batch.
        return [(vector.clone(), cut) for vector, cut in zip(F.normalize(vectors.mean(1), dim=-1), cuts, strict=True)]

    # --- pictures ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def pictures(self, pictures: Tensor, batch_size: int = 32) -> Tensor:
        """Vectors of whole pictures, such as `views.make_views` draws.

        Args:
            pictures: (n,3,s,s) uint8, s = `image_size`; they may lie on the CPU, and go to the device in batches.
            batch_size: Pictures encoded at once; bounds the memory.

        Returns:
            (n,D) float32 unit vectors, CPU.

        Raises:
            ValueError: If the pictures have another shape or dtype, or `batch_size` is below 1.
        """
        side = self.image_size
        if not isinstance(pictures, Tensor) or pictures.dtype != torch.uint8 or pictures.shape[1:] != (3, side, side):
            got = (
                f"{tuple(pictures.shape)} {pictures.dtype}"
                if isinstance(pictures, Tensor)
                else type(pictures).__name__
            )
            raise ValueError(f"pictures must be a tensor (n, 3, {side}, {side}) uint8, got {got}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        vectors = [torch.zeros(0, self.width)] if len(pictures) == 0 else []
        for some in pictures.split(batch_size):
            if len(some):
                encoded = self.clip.encode_image(self._normalise(some.to(self.device).float()))
                vectors.append(F.normalize(encoded.float(), dim=-1).cpu())
        return torch.cat(vectors)

    @torch.inference_mode()
    def dense(
        self, picture: Tensor, attention: str = "nacl", size: int | None = None, key: str | None = None
    ) -> Tensor:
        """A vector for every place of a picture; the same question about the same picture costs nothing.

        Args:
            picture: (3,H,W) uint8, any size; it is resized as a whole, and keeps its aspect to the nearest patch.
            attention: See `dense_features`.
            size: Side in pixels of a square with as many pixels as the resized picture shall have; None: the model's
                own if that is at least 320, else 384.
            key: Names the picture's content, such as `ImageEmbedding.key`; None: made from its pixels.

        Returns:
            (D,h,w) float32 unit vectors, CPU; the grid covers the whole picture. Shared: copy it to write into it.

        Raises:
            ValueError: If the picture has another shape or dtype, the attention is unknown, or the tower has no such
                features.
        """
        if not isinstance(picture, Tensor) or picture.dtype != torch.uint8 or picture.ndim != 3 or len(picture) != 3:
            got = f"{tuple(picture.shape)} {picture.dtype}" if isinstance(picture, Tensor) else type(picture).__name__
            raise ValueError(f"picture must be a tensor (3, H, W) uint8, got {got}")
        if attention not in ATTENTIONS:
            raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}; got {attention!r}")
        if picture.numel() == 0 or (size is not None and size < 1):
            raise ValueError(f"picture and size must be at least a pixel, got {tuple(picture.shape)} and {size}")
        patch = patch_size(self.clip.visual)
        if size is None:
            size = self.image_size if self.image_size >= FINE_ENOUGH else DENSE_SIZE
        resized = dense_size(tuple(picture.shape[-2:]), size, patch)
        revision = self.revision
        settings = f"{attention} {resized}"
        key = content_key(picture, settings, revision) if key is None else f"{key} {settings} {revision}"

        def encode() -> ImageEmbedding:
            pixels = picture.to(self.device).float()[None]
            pixels = F.interpolate(pixels, resized, mode="bicubic", antialias=True).clamp(0, 255)
            features = dense_features(self.clip.visual, self._normalise(pixels), attention)
            features = F.normalize(features.float(), dim=1).cpu()  # (1,D,h,w)
            return ImageEmbedding(features, tuple(picture.shape[-2:]), resized, key, revision)

        return self._maps.get_or_encode(key, encode).tensor[0]

    def _normalise(self, pixels: Tensor) -> Tensor:
        """(n,3,H,W) float32 on the scale to 255 -> what the image tower takes."""
        mean, std = self._mean.to(pixels.device), self._std.to(pixels.device)
        return ((pixels / 255 - mean) / std).to(self.dtype)


def encoder_for(predictor: SamPredictor, clip: ClipEncoder | str | os.PathLike | None) -> ClipEncoder:
    """The CLIP that serves a checkpoint: the one given, by itself or by name; None: the one that it comes with.

    Raises:
        ValueError, ImportError, OSError: If there is none, or see `ClipEncoder.from_pretrained`.
    """
    clip = clip_beside(predictor.model) if clip is None else clip
    if clip is None:
        raise ValueError(f"clip: expected {A_CLIP}; got none")
    if isinstance(clip, (str, os.PathLike)):
        return ClipEncoder.from_pretrained(clip, device=predictor.device)
    return clip


def _fitting_tokenizer(tokenizer: Any, clip: nn.Module) -> Any:
    """`SamTokenizer` in place of open_clip's byte-pair tokenizer where it does the same, or the vocabulary is cut.

    It takes control words that a user types for words, and it can be cut.
    """
    simple = import_open_clip().SimpleTokenizer
    plain = isinstance(tokenizer, simple) and tokenizer.reduction_fn is None and tokenizer.clean_fn("A. b") == "a. b"
    vocabulary = getattr(clip, "vocab_size", CLIP_VOCABULARY)
    if plain and vocabulary <= CLIP_VOCABULARY:
        return tokenizer_for(vocabulary, tokenizer.context_length)
    return tokenizer


def _cut_off(tokenizer: Any, text: str) -> str:
    """The end of a text that is beyond the context length; "" if all of it fits."""
    if hasattr(tokenizer, "encode"):  # byte pairs between a start and an end
        return tokenizer.decode(tokenizer.encode(text)[tokenizer.context_length - 2 :]).strip()
    inner = tokenizer.tokenizer  # of transformers, in open_clip's wrapper
    tokens = inner(getattr(tokenizer, "clean_fn", str)(text), add_special_tokens=False)["input_ids"]
    return inner.decode(tokens[tokenizer.context_length - inner.num_special_tokens_to_add() :]).strip()


def _read_templates(templates: Any) -> tuple[str, ...]:
    if isinstance(templates, str) or not isinstance(templates, Sequence) or len(templates) == 0:
        raise TypeError(f"templates: expected a list of strings, got {templates!r:.60}")
    for index, template in enumerate(templates):
        if not isinstance(template, str) or "{}" not in template:
            raise ValueError(f'templates[{index}]: expected a string with "{{}}" for the phrase, got {template!r:.60}')
    return tuple(templates)
