"""Tells weights apart, so that nothing made by one set of weights is taken for another's."""

import hashlib
import json
import threading

import torch
from torch import nn

_SAMPLES = 1024


def fingerprint(module: nn.Module) -> str:
    """Names a module's weights, in milliseconds whatever its size.

    It covers names, shapes and dtypes of all weights, up to 1024 evenly spaced values of each, and the configuration
    if the module has one. Training or fine-tuning changes practically every value, hence this name; weights forged to
    agree in the sampled places would go unnoticed, so this is a key of caches and no proof of origin.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    config = getattr(module, "config", None)
    if config is not None:
        # Where it was loaded from and by which version are no part of what it computes.
        ignored = {"_name_or_path", "transformers_version", "architectures", "auto_map", "dtype"}
        described = {name: value for name, value in config.to_dict().items() if name not in ignored}
        digest.update(json.dumps(described, sort_keys=True, default=str).encode())
    samples = []
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        flat = tensor.detach().flatten()
        places = torch.linspace(0, max(flat.numel() - 1, 0), min(_SAMPLES, flat.numel()), dtype=torch.float64)
        samples.append(flat[places.round().long().to(flat.device)].float())
    if samples:
        # Gathered on the device first: one transfer instead of one per weight.
        digest.update(torch.cat(samples).cpu().numpy().tobytes())
    return digest.hexdigest()


class WeightsWatch:
    """The fingerprint of a module, taken anew after its weights have changed.

    Optimizers, `load_state_dict` and `.to()` leave traces that are cheap to compare: the version counter that PyTorch
    keeps for autograd, and where the weights lie. Only writing through `.data` leaves none.
    """

    def __init__(self, module: nn.Module):
        self._module = module
        self._lock = threading.Lock()
        self._known: tuple[tuple, str] | None = None

    def fingerprint(self) -> str:
        """The fingerprint of the weights as they are now."""
        state = self.state()
        with self._lock:
            if self._known is None or self._known[0] != state:
                self._known = (state, fingerprint(self._module))
            return self._known[1]

    def state(self) -> tuple:
        """Equal between two moments if nothing has been written to the weights in between."""
        return tuple(
            (0 if weight.is_inference() else weight._version, weight.data_ptr(), weight.dtype)
            for weight in self._module.parameters()
        )
