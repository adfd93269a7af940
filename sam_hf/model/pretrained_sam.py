"""The base class of every model here: loading, saving, and what the rest of transformers asks of a model."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging
from transformers.utils.output_capturing import capture_outputs

from .atomic_saving import saved_whole
from .checkpoint_checks import check_folder, check_inside, loading_report, problems_named
from .checkpoint_names import resolve
from .companion_files import set_aside, told_of
from .configuration_sam import SamConfig
from .hub_access import pinned, read_token, remember
from .optimization import Optimization, optimize
from .pushing import push
from .remote_code import claim_processor
from .weight_checks import check_finite, check_reads_pickles, check_shapes, check_some_loaded, check_weight_files

logger = logging.get_logger(__name__)
TEXT_WEIGHTS = "prompt_encoder.text_"  # what the names of the text branch's weights begin with
SHARD = "2GB"  # the whole of ViT-H in one file is more than some file systems and connections take

# Arguments of transformers' `save_pretrained` that are no arguments of `push_to_hub`.
_SAVING_OPTIONS = ("state_dict", "variant", "save_peft_format", "save_original_format")

# Of older versions of transformers, and of `accelerate`'s examples; nothing follows from them here.
_OLD_OPTIONS = ("safe_serialization", "save_function", "distributed_checkpoint")
_PUSHING_OPTIONS = {
    "repo_id",
    "commit_message",
    "commit_description",
    "private",
    "token",
    "revision",
    "create_pr",
    "tags",
}

# Collects hidden states and attentions while a decorated `forward` runs, if the caller asked for them.
captures_outputs = capture_outputs(tie_last_hidden_states=False)


class SamPreTrainedModel(PreTrainedModel):
    """Weights and configuration of a SAM model, from a folder or the Hub and back."""

    config: SamConfig
    base_model_prefix = "sam"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # Whole on one device: these read the weights of their embeddings directly, without a call that could fetch them.
    _no_split_modules = ["SamVisionLayer", "SamTinyViTStage", "SamPromptEncoder", "SamMaskDecoder"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    optimization: Optimization | None = None
    # (folder, repository) -> a model card; this package sets it for `SamModel`, remote code has none.
    card_of: Callable[[Any, str], str] | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs) -> "SamPreTrainedModel":
        """Load a checkpoint: a Hub id, a folder, or "tiny", the checkpoint inside this package.

        Takes every argument of `transformers.PreTrainedModel.from_pretrained`. Differs in: weights are read from
        safetensors only, because a pickle can run code, unless `use_safetensors=False` is given, which needs
        torch 2.10 or later. Weights that are
        missing start afresh, as in transformers, and are listed in a warning; with `output_loading_info=True` they
        are in the second of two results instead.

        Raises:
            OSError: There is no such checkpoint, or a file of it is missing.
            ValueError: It is damaged, not finite, of another architecture, or not what its configuration says.
        """
        name, wants_info = resolve(pretrained_model_name_or_path), kwargs.pop("output_loading_info", False)
        if kwargs.get("use_safetensors") is None:
            kwargs["use_safetensors"] = True
        if not kwargs["use_safetensors"]:
            check_reads_pickles(name)
        if not kwargs.get("gguf_file") and not (kwargs.get("config") is not None and os.path.isfile(str(name))):
            kinds = {"weights": kwargs["use_safetensors"], "config": kwargs.get("config") is None}
            check_folder(name, **kinds, subfolder=kwargs.get("subfolder") or "", variant=kwargs.get("variant"))
        with problems_named(name), pinned(name, kwargs) as options:
            model, found = super().from_pretrained(name, *args, output_loading_info=True, **options)
        remember(model, options)
        if kwargs.get("state_dict") is None:
            check_some_loaded(model, found["missing_keys"], found["unexpected_keys"], name)
        check_finite(model, name)
        if wants_info:
            return model, found
        for line in loading_report(found, TEXT_WEIGHTS, model, name):
            logger.warning(line)
        return model

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, *args, **kwargs) -> Any:
        """The step of transformers' loading at which the files are there and nothing of them has been read."""
        if state_dict is None and checkpoint_files and str(checkpoint_files[0]).endswith(".safetensors"):
            shards = (load_config.sharded_metadata or {}).get("weight_map") or {}
            check_inside(shards.values(), "the index of the weights")
            shapes = check_weight_files(checkpoint_files)
            if load_config.hf_quantizer is None and not load_config.ignore_mismatched_sizes:
                check_shapes(shapes, model, load_config.pretrained_model_name_or_path)
        return PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kwargs
        )

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        *args,
        push_to_hub: bool = False,
        max_shard_size: int | str = SHARD,
        **kwargs,
    ) -> None:
        """Write weights, in files of at most 2 GB unless told otherwise, configuration, and the code where needed.

        Takes every argument of `transformers.PreTrainedModel.save_pretrained`; see `SamConfig.save_pretrained`. What
        was there before stays as it was until all is written. Where other weights were there before, `training.json`,
        `text_calibration.json` and evaluations of these get names that end in ".earlier".

        Raises:
            OSError: The disk refuses, or `save_directory` is a file; then nothing there has changed.
            TypeError: An argument is not known.
        """
        options = {"max_shard_size": max_shard_size}
        if not is_main_process or kwargs.get("distributed_checkpoint"):  # others, or several together, write there
            options |= kwargs | {"push_to_hub": push_to_hub}
            return super().save_pretrained(save_directory, is_main_process, *args, **options)
        saving = {name: kwargs.pop(name) for name in _SAVING_OPTIONS if name in kwargs}
        kwargs = {name: value for name, value in kwargs.items() if name not in _OLD_OPTIONS}
        unknown = sorted(set(kwargs) - _PUSHING_OPTIONS)
        if unknown:
            raise TypeError(
                f"save_pretrained() got unexpected keyword arguments {unknown}; expected some of "
                f"{sorted({'max_shard_size', *_SAVING_OPTIONS, *_PUSHING_OPTIONS})}"
            )
        again = {name: dict(value) if name == "state_dict" and value else value for name, value in saving.items()}
        with saved_whole(save_directory) as part:
            super().save_pretrained(part, True, *args, **options, **saving)
            beside, is_theirs = told_of(save_directory, Path(part))
            if self.config.model_type == SamConfig.model_type:
                claim_processor(save_directory, part)
        if beside and not is_theirs and saving.get("variant") is None:
            names = ", ".join(set_aside(beside))
            logger.warning(
                f"{str(save_directory)!r} holds other weights now; what was said of the earlier is in {names}"
            )
        if push_to_hub:
            repo_id = kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
            token = read_token(kwargs.pop("token", None))
            push(self, repo_id, save_directory, token, options | again, self.card_of, **kwargs)

    def push_to_hub(
        self, repo_id: str, *, max_shard_size: int | str | None = SHARD, token: str | bool | None = None, **kwargs
    ) -> CommitInfo:
        """Save and upload, in one commit; takes every argument of `transformers.PreTrainedModel.push_to_hub`.

        A repository without a card gets one that says what is known of this checkpoint (in remote code: transformers'
        own). `training.json`, `text_calibration.json` and evaluations go along from the folder that the model was
        loaded from, if its weights are still those. Earlier weights in other files go, and what was made of them.

        `processor.push_to_hub` uploads the processor; `sam_hf.hub.publishing.publish` both, with pictures.

        Raises:
            TypeError: An argument is not known.
            ValueError: `token` cannot be one, or the repository is public and `private=True` was asked for.
        """
        source = resolve(self.name_or_path)
        saving = {"max_shard_size": max_shard_size}
        return push(self, repo_id, source, read_token(token), saving, self.card_of, **kwargs)

    def optimize(self, *, dtype: torch.dtype | str | None = None, compile: bool | str = False) -> "SamPreTrainedModel":
        """Make inference fast, in place; asking again for the same changes nothing.

        The model is put into eval mode, into the number format asked for, and onto torch's fused attention. The names
        of the weights stay, so it saves as before (in the new number format). On a CPU nothing else is needed for
        speed: float32 kernels are chosen without asking.

        Args:
            dtype: "bfloat16", "float16" (GPU only), "float32", or torch's own; None: as it is. Half precision changes
                the logits in their third digit, so edges of masks move here and there. On a CPU bfloat16 pays where
                the processor multiplies it (AVX512-BF16, AMX), and attention stays in float32.
            compile: GPU only. True, or a mode of torch.compile without CUDA graphs ("default",
                "max-autotune-no-cudagraphs"): the blocks of the image encoder are compiled, which takes a minute or
                more at the first image and again at the first one of another batch size. Rounding changes, no more.

        Returns:
            This model. `model.optimization` says what was done.

        Raises:
            ValueError: An unknown `dtype` or `compile`, or one that would slow this model down on its device.

        Example:
            >>> model = SamModel.from_pretrained("tiny").optimize(dtype="bfloat16")
        """
        self.optimization = optimize(self, dtype, compile)
        return self

    def _initialize_weights(self, module: nn.Module, *args, **kwargs) -> None:
        """Fresh weights for whatever a checkpoint has not filled.

        For classes outside transformers, transformers 5.23 leaves out every module without weights of its own, in case
        its initialisation overwrites loaded ones. Ours uses transformers' functions, which see to that themselves.
        """
        super()._initialize_weights(module)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Every attention here asks its configuration at each call; transformers would judge by our source text."""
        return True

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], *args, **kwargs) -> None:
        """Switch every attention between "eager" and "sdpa", or those of one part: `{"vision_config": "eager"}`.

        Takes every argument of `transformers.PreTrainedModel.set_attn_implementation`.

        Raises:
            ValueError: There is no such implementation, or no such part.
        """
        parts = getattr(self.config, "sub_configs", {})
        wanted = attn_implementation
        if not isinstance(wanted, dict):
            wanted = dict.fromkeys(["", *parts], wanted)
        unknown = set(wanted) - {"", *parts}
        if unknown:
            raise ValueError(f"`attn_implementation` may name the parts {sorted(parts)}; got {sorted(unknown)}")
        for part in set(wanted) - {"", "vision_config"}:
            # These parts are no PreTrainedModel; transformers would set them "in the dark" and warn.
            part_config = getattr(self.config, part)
            part_config._attn_implementation = self.get_correct_attn_implementation(wanted[part])
        super().set_attn_implementation(attn_implementation, *args, **kwargs)

    def _set_gradient_checkpointing(self, *args, **kwargs) -> None:
        """Only transformer blocks are checkpointed; the text tower has its own switch."""
        super()._set_gradient_checkpointing(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, nn.Module) and hasattr(module, "set_grad_checkpointing"):
                module.set_grad_checkpointing(kwargs.get("enable", args[0] if args else True))


__all__ = ["SamPreTrainedModel"]
