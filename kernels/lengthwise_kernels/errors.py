"""The root of the engine's errors, and the one that kernels raise.

What a kernel cannot compute is said before it is launched, with the values. Everything
else of the tree is in `lengthwise_engine.errors`.
"""


class EngineError(Exception):
    """The root: catch this to catch whatever engine and kernels raise on purpose."""


class UnsupportedByKernel(EngineError):
    """Tensors of a shape, type or device that a kernel does not compute; a bug of its caller."""
