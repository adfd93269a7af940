"""The whole model: image encoder, prompt encoder, mask decoder.

`SamModel.forward` is the paper's Figure 4 read from left to right. Coordinates are *resized* pixels: the frame in
which the image's longest side is `config.vision_config.image_size`. `SamProcessor` goes there from original pixels and
back.

Source: Segment Anything (Kirillov et al., 2023, arXiv 2304.02643), §3 and App. A. Class names, arguments, output
fields and weight names are transformers 5.23's `SamModel`. Differs in: free text as a prompt (`input_ids` or
`text_embeds`) and as a question of where something is (`get_text_alignment`), mask prompts per prompt and not only per
image, prompts that may be absent inside a batch, and no call is `no_grad`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import OutputRecorder

from .configuration_sam import SamConfig, SamTinyViTConfig, SamVisionConfig, adopt
from .fast_decoding import FastMaskDecoder
from .image_encoder import SamVisionEncoder, SamVisionEncoderOutput
from .mask_decoder import SamMaskDecoder
from .pretrained_sam import SamPreTrainedModel, captures_outputs
from .prompt_encoder import SamPositionalEmbedding, SamPromptEncoder
from .stand_in import can_stand_in
from .text_alignment import SamTextAlignment
from .tiny_vit_encoder import SamTinyViTEncoder
from .two_way_transformer import SamTwoWayAttentionBlock


@dataclass
class SamImageSegmentationOutput(ModelOutput):
    """What `SamModel` returns.

    Args:
        iou_scores: The model's estimate of each mask's IoU, (B,P,M), nominally in [0, 1], not clamped.
        pred_masks: Mask logits, (B,P,M,4h,4w), threshold 0.0; `SamProcessor.post_process_masks` brings them to
            original pixels.
        vision_hidden_states: On request, the image encoder's hidden states.
        vision_attentions: On request, the image encoder's attention weights.
        mask_decoder_attentions: On request, what the image took from the tokens in each two-way block,
            (B*P,1,h*w,C).
    """

    iou_scores: Tensor | None = None
    pred_masks: Tensor | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None
    mask_decoder_attentions: tuple[Tensor, ...] | None = None


def build_vision_encoder(config: SamVisionConfig | SamTinyViTConfig) -> SamPreTrainedModel:
    """The image encoder that a vision configuration describes."""
    encoder = SamTinyViTEncoder if isinstance(config, SamTinyViTConfig) else SamVisionEncoder
    return encoder(config)


class SamVisionModel(SamPreTrainedModel):
    """The image encoder alone."""

    config: SamVisionConfig
    main_input_name = "pixel_values"
    # A whole model's checkpoint serves too; the rest of it is not missed.
    _keys_to_ignore_on_load_unexpected = [r"^prompt_encoder\.", r"^mask_decoder\.", r"^shared_image_embedding\."]

    def __init__(self, config: SamVisionConfig):
        config = adopt(config)
        super().__init__(config)
        self.vision_encoder = build_vision_encoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_encoder.get_input_embeddings()

    def forward(self, pixel_values: Tensor | None = None, **kwargs) -> tuple | SamVisionEncoderOutput:
        """Embed images (B,3,S,S); see `SamVisionEncoder.forward`."""
        return self.vision_encoder(pixel_values, **kwargs)


class SamModel(SamPreTrainedModel):
    """Segment Anything: an image and prompts in, masks and their estimated quality out."""

    config: SamConfig
    input_modalities = ("image", "text")
    _can_record_outputs = {"mask_decoder_attentions": OutputRecorder(SamTwoWayAttentionBlock, index=2)}
    _tied_weights_keys = {
        "prompt_encoder.shared_embedding.positional_embedding": "shared_image_embedding.positional_embedding"
    }

    def __init__(self, config: SamConfig):
        config = adopt(config)
        super().__init__(config)
        self.shared_image_embedding = SamPositionalEmbedding(config.vision_config)
        self.vision_encoder = build_vision_encoder(config.vision_config)
        self.prompt_encoder = SamPromptEncoder(config)
        # The decoder is no PreTrainedModel, so nobody else tells its configuration which attention to use.
        config.mask_decoder_config._attn_implementation = config._attn_implementation
        self.mask_decoder = SamMaskDecoder(config.mask_decoder_config)
        self.post_init()

    @captures_outputs
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        image_embeddings: Tensor | None = None,
        multimask_output: bool = True,
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        text_embeds: Tensor | None = None,
        **kwargs,
    ) -> tuple | SamImageSegmentationOutput:
        """Predict the masks that the prompts ask for; all kinds of prompt of one (B,P) place describe one object.

        Args:
            pixel_values: Images, (B,3,S,S), normalised, padded at the bottom and right. Or:
            image_embeddings: What `get_image_embeddings` made of them, (B,C,h,w).
            input_points: (B,P,N,2) xy, resized pixels.
            input_labels: (B,P,N): 1 foreground, 0 background, -1 not a point, -10 padding. None: all foreground.
            input_boxes: (B,P,4) xyxy, resized pixels; a row of four -10 is no box.
            input_masks: (B,P,1,4h,4w) logits, all NaN where a prompt has none; or (B,1,4h,4w), shared by the prompts.
            multimask_output: True: three masks per prompt, for an ambiguous one; False: a single one.
            attention_similarity: Added to the logits of the decoder's token-to-image attention (PerSAM),
                broadcastable to (B*P,heads,T,h*w).
            target_embedding: Added to the decoder's tokens before every block (PerSAM), broadcastable to (B,P,T,C).
            input_ids: Phrases, (B,P,T) token ids. Or:
            text_embeds: (B,P,D) unit norm, CLIP's joint space; all NaN where a prompt has no text.
            attention_mask: (B,P,T), goes with `input_ids`; a row of zeros is no text. Nothing without them.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            Mask logits `pred_masks` (B,P,M,4h,4w) and `iou_scores` (B,P,M), M = 3 or 1.

        Raises:
            ValueError: A prompt has the wrong shape or count, or text is given to a model without a text branch.

        Example:
            >>> inputs = processor(image, input_points=[[[[450, 600]]]], return_tensors="pt")
            >>> outputs = model(**inputs)
            >>> masks = processor.post_process_masks(
            ...     outputs.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
            ... )
        """
        if (pixel_values is None) == (image_embeddings is None):
            got = "neither" if pixel_values is None else "both"
            raise ValueError(f"give either `pixel_values` or `image_embeddings`; got {got}")
        vision_outputs = None
        if pixel_values is not None:
            for request in ("output_hidden_states", "output_attentions"):
                if getattr(self.config, request):  # asked of the whole, so of the encoder too
                    kwargs.setdefault(request, True)
            vision_outputs = self.vision_encoder(pixel_values, **kwargs)
            image_embeddings = vision_outputs.last_hidden_state
        image_embeddings = image_embeddings.to(self.dtype)

        if input_ids is not None:
            if text_embeds is not None:
                raise ValueError("give either `input_ids` or `text_embeds`; got both")
            text_embeds = self.get_text_embeds(input_ids, attention_mask)
        if input_points is not None and input_labels is None:
            input_labels = torch.ones(input_points.shape[:-1], dtype=torch.long, device=input_points.device)
        self._check_prompts(image_embeddings, input_points, input_labels, input_boxes, input_masks, text_embeds)

        sparse_embeddings, dense_embeddings = self.prompt_encoder(
            input_points, input_labels, input_boxes, input_masks, text_embeds
        )
        attentions = any(
            kwargs.get(request, getattr(self.config, request, False))
            for request in ("output_attentions", "output_mask_decoder_attentions")
        )
        pred_masks, iou_scores = self._decode(
            image_embeddings=image_embeddings,
            sparse_prompt_embeddings=sparse_embeddings,
            dense_prompt_embeddings=dense_embeddings,
            multimask_output=multimask_output,
            visible_tokens=self.prompt_encoder.visible_tokens(input_labels, input_boxes, text_embeds),
            attention_similarity=attention_similarity,
            target_embedding=target_embedding,
            attentions=attentions,
        )
        return SamImageSegmentationOutput(
            iou_scores=iou_scores,
            pred_masks=pred_masks,
            vision_hidden_states=vision_outputs.hidden_states if vision_outputs else None,
            vision_attentions=vision_outputs.attentions if vision_outputs else None,
        )

    def _decode(
        self, attention_similarity: Tensor | None, target_embedding: Tensor | None, attentions: bool, **inputs
    ) -> tuple[Tensor, Tensor]:
        """Mask logits and predicted IoU, see `SamMaskDecoder.forward`; `attentions`: somebody wants the decoder's.

        Without gradients they come from the decoder's fast twin, which gives the same up to rounding: it multiplies in
        another order and computes once per image what all of its prompts share.
        """
        if attention_similarity is None and target_embedding is None and not attentions and can_stand_in(self):
            return FastMaskDecoder(self).decode(**inputs)
        return self.mask_decoder(
            image_positional_embeddings=self.get_image_wide_positional_embeddings(),
            attention_similarity=attention_similarity,
            target_embedding=target_embedding,
            **inputs,
        )

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_encoder.get_input_embeddings()

    def get_image_wide_positional_embeddings(self) -> Tensor:
        """Fourier features of the centres of the embedding's cells, (1,C,h,w)."""
        size = self.config.prompt_encoder_config.image_embedding_size
        matrix = self.shared_image_embedding.positional_embedding
        centres = (torch.arange(size, device=matrix.device, dtype=torch.float32) + 0.5) / size
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self.shared_image_embedding(torch.stack([x, y], dim=-1)).permute(2, 0, 1)[None]

    def get_image_embeddings(self, pixel_values: Tensor, **kwargs) -> Tensor:
        """Images (B,3,S,S) -> image embeddings (B,C,h,w), to be decoded with any number of prompts."""
        return self.vision_encoder(pixel_values, **kwargs)[0]

    def get_text_embeds(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Phrases -> unit-norm vectors in CLIP's joint space.

        Args:
            input_ids: (B,P,T) token ids, T at most the tower's context length.
            attention_mask: (B,P,T); a row of zeros is no text.

        Returns:
            (B,P,D); all NaN where there is no text.

        Raises:
            ValueError: This model has no text branch, or the shape is wrong.
        """
        self._require_text("input_ids")
        length = self.config.text_config.context_length
        if input_ids.ndim != 3 or input_ids.shape[-1] > length:
            raise ValueError(f"`input_ids` must have shape (B, P, T), T <= {length}; got {tuple(input_ids.shape)}")
        if attention_mask is not None:
            _check_shape("attention_mask", attention_mask, "(B, P, T)", tuple(input_ids.shape))
        # Filled up with zeros, as by the tokenizer: the tower's causal mask has the full length only.
        whole = nn.functional.pad(input_ids, (0, length - input_ids.shape[-1]))
        vectors = self.prompt_encoder.text_encoder(whole.flatten(0, 1)).unflatten(0, input_ids.shape[:2])
        vectors = nn.functional.normalize(vectors.float(), dim=-1).to(vectors.dtype)
        if attention_mask is None:
            return vectors
        return vectors.masked_fill(~attention_mask.bool().any(dim=-1, keepdim=True), float("nan"))

    def get_text_alignment(self, image_embeddings: Tensor, text_embeds: Tensor, masks: Tensor | None = None) -> Tensor:
        """Where phrases are, or whether they suit masks; see `text_alignment`.

        Args:
            image_embeddings: (B,C,h,w).
            text_embeds: (B,P,D), see `get_text_embeds`; NaN in, NaN out.
            masks: (B,P,4h,4w) logits or booleans, one per phrase, in the frame of `pred_masks`.

        Returns:
            Log-odds that a cell lies on what the phrase names, (B,P,h,w) float32; with masks, that the phrase is true
            of what the mask shows, (B,P) float32.

        Raises:
            ValueError: This checkpoint has no such part (`config.text_config.alignment`), or a shape is wrong.
        """
        self._require_text("text_embeds")
        alignment = self.prompt_encoder.text_alignment
        if alignment is None:
            raise ValueError("this checkpoint's text branch has no alignment: its `text_config.alignment` is False")
        width = self.config.text_config.embed_dim
        _check_shape("text_embeds", text_embeds, "(B, P, D)", (len(image_embeddings), None, width))
        if masks is None:
            return alignment(image_embeddings, text_embeds)
        height, width = image_embeddings.shape[-2:]
        _check_shape("masks", masks, "(B, P, 4h, 4w)", (*text_embeds.shape[:2], 4 * height, 4 * width))
        shares = nn.functional.avg_pool2d((masks > 0).float(), 4)  # (B,P,h,w)
        seen = alignment.regions(alignment.cells(image_embeddings), shares)
        return alignment.compare(seen, text_embeds).diagonal(dim1=-2, dim2=-1)

    def get_prompt_embeddings(
        self,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        text_embeds: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """Sparse tokens and dense embedding of prompts; see `SamPromptEncoder.forward`."""
        return self.prompt_encoder(input_points, input_labels, input_boxes, input_masks, text_embeds)

    def _require_text(self, argument: str) -> None:
        if self.config.text_config is None:
            raise ValueError(
                f"`{argument}` is a text prompt, but this checkpoint has no text branch: use one that has "
                '(for example "tiny"), add one with SamConfig(text_config=...) and train it, '
                "or prompt with points, boxes or masks"
            )

    def _check_prompts(
        self,
        image_embeddings: Tensor,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        masks: Tensor | None,
        text_embeds: Tensor | None,
    ) -> None:
        """Refuse prompts whose shapes contradict the images' or each other's."""
        prompt = self.config.prompt_encoder_config
        cells = prompt.image_embedding_size
        _check_shape("image_embeddings", image_embeddings, "(B, C, h, w)", (None, prompt.hidden_size, cells, cells))
        batch, side = image_embeddings.shape[0], 4 * cells
        if text_embeds is not None:
            self._require_text("text_embeds")
            width = self.config.text_config.embed_dim
            _check_shape("text_embeds", text_embeds, "(B, P, D)", (batch, None, width))
        if points is not None:
            _check_shape("input_points", points, "(B, P, N, 2)", (batch, None, None, 2))
            _check_shape("input_labels", labels, "(B, P, N)", tuple(points.shape[:-1]))
        elif labels is not None:
            raise ValueError("`input_labels` label points, but `input_points` is missing")
        if boxes is not None:
            _check_shape("input_boxes", boxes, "(B, P, 4)", (batch, None, 4))
        if masks is not None and masks.ndim != 4:
            _check_shape("input_masks", masks, "(B, P, 1, 4h, 4w) or (B, 1, 4h, 4w)", (batch, None, 1, side, side))
        elif masks is not None:
            _check_shape("input_masks", masks, "(B, P, 1, 4h, 4w) or (B, 1, 4h, 4w)", (batch, 1, side, side))
        per_prompt = {"input_points": points, "input_boxes": boxes, "text": text_embeds}
        per_prompt["input_masks"] = masks if masks is not None and masks.ndim == 5 else None
        counts = {name: prompt.shape[1] for name, prompt in per_prompt.items() if prompt is not None}
        sizes = list(counts.values())  # and no set of them: torch.export's sizes cannot be hashed
        if any(size != sizes[0] for size in sizes[1:]):
            listed = ", ".join(f"`{name}` {count}" for name, count in counts.items())
            raise ValueError(f"prompts of one image must agree in their number P; got {listed}")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Fresh weights: learned tokens and types of unit variance, as in Meta's code; open_clip's for the tower."""
        super()._init_weights(module)
        if isinstance(module, SamPositionalEmbedding):
            init.normal_(module.positional_embedding, std=module.scale)
        elif isinstance(module, (SamPromptEncoder, SamMaskDecoder)):
            for child in module.children():
                for embedding in [child, *(child if isinstance(child, nn.ModuleList) else [])]:
                    if isinstance(embedding, nn.Embedding):
                        init.normal_(embedding.weight, std=1.0)
        elif isinstance(module, SamTextAlignment):
            module.init_weights()
        elif module is self.prompt_encoder.text_encoder:
            _init_text_tower(module)


def _check_shape(name: str, tensor: Tensor, letters: str, expected: tuple[int | None, ...]) -> None:
    """Refuse a tensor whose shape is not `expected`, where None is any size."""
    agrees = tensor.ndim == len(expected) and all(
        size in (None, actual) for size, actual in zip(expected, tensor.shape, strict=True)
    )
    if not agrees:
        sizes = ", ".join("any" if size is None else str(size) for size in expected)
        raise ValueError(f"`{name}` must have shape {letters} = ({sizes}); got {tuple(tensor.shape)}")


def _init_text_tower(tower: nn.Module) -> None:
    """Fresh weights of open_clip's text transformer, as open_clip makes them, and its causal mask.

    Written with transformers' init functions, which leave alone what a checkpoint has already filled.
    """
    width, depth = tower.transformer.width, tower.transformer.layers
    init.normal_(tower.token_embedding.weight, std=0.02)
    init.normal_(tower.positional_embedding, std=0.01)
    for block in tower.transformer.resblocks:
        init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        init.normal_(block.attn.out_proj.weight, std=width**-0.5 * (2 * depth) ** -0.5)
        init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        init.normal_(block.mlp.c_proj.weight, std=width**-0.5 * (2 * depth) ** -0.5)
    if isinstance(tower.text_projection, nn.Parameter):
        init.normal_(tower.text_projection, std=width**-0.5)
    if tower.attn_mask is not None:  # a buffer that no checkpoint holds
        init.copy_(tower.attn_mask, tower.build_causal_mask())


__all__ = ["SamImageSegmentationOutput", "SamModel", "SamPreTrainedModel", "SamVisionModel"]
