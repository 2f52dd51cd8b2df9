"""Every error the engine raises on purpose, in one tree.

    EngineError
    ├─ AccuracyError        a mode was evaluated and fails its bounds, or cannot be evaluated
    ├─ CacheSizeError       the KV cache cannot be had as asked
    ├─ DeviceMemoryError    weights, KV cache, graphs and steps do not fit a device together
    ├─ NumericsError        computing cannot be invariant as asked
    ├─ StepError            a caller broke the contract of `ModelRunner`
    ├─ RankError            a rank of a tensor-parallel worker cannot start, died or stalled
    ├─ TransferBusy         a link has too many operations outstanding (`transfer.base`)
    ├─ TransferStartError   the transfer process could not be started (`transfer.config`)
    └─ UnsupportedByKernel  tensors that a kernel does not compute (`lengthwise_kernels.errors`)

Messages say what was found, what was expected and, where there is one, the remedy.
"""

from lengthwise_kernels.errors import EngineError as EngineError


class AccuracyError(EngineError):
    """A mode of a model was evaluated and fails its bounds; or its record, or what is to be
    evaluated, is unusable."""


class CacheSizeError(EngineError):
    """The KV cache cannot be made as asked: too little memory, sizes that do not match, or a type
    that this model has no cache of."""


class DeviceMemoryError(EngineError):
    """A device cannot hold all it is asked to; the message says how much fits and what to lower."""


class NumericsError(EngineError):
    """A model cannot be computed as invariantly as asked on this device, or by so many ranks."""


class StepError(EngineError):
    """A step breaks the contract of `ModelRunner`; a scheduler's bug, never a client's."""


class RankError(EngineError):
    """A rank of a tensor-parallel worker cannot start, died or stalled; no step can be computed."""
