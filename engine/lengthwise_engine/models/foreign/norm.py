"""Our RMS norm in the place of transformers', which takes six operations for it."""

import inspect
from typing import Any, Final

import torch

from lengthwise_kernels.dispatch import rms_norm

_TOLERANCE: Final = 1e-6
"""In float32, between two orders of adding; in 16 bits they have to be equal."""


class ForeignNorm(torch.nn.Module):
    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.weight = weight
        self.variance_epsilon = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.variance_epsilon)


def put_norms(model: Any) -> None:
    """On CPUs, where ours is found to compute the same."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if (norm := _same(child)) is not None:
                setattr(parent, name, norm)


@torch.inference_mode()
def _same(module: Any) -> ForeignNorm | None:
    """Ours, if it computes some rows as `module` does."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not type(module).__name__.endswith("RMSNorm") or not isinstance(eps, float):
        return None
    if weight is None or weight.dim() != 1 or weight.device.type != "cpu":
        return None
    if len(inspect.signature(module.forward).parameters) != 1:
        return None
    norm = ForeignNorm(weight, eps)
    x = torch.linspace(-3, 5, 3 * len(weight)).sin().view(3, -1).to(weight.dtype)
    most = _TOLERANCE if weight.dtype == torch.float32 else 0.0
    return norm if torch.allclose(norm(x), module(x), atol=most, rtol=most) else None
