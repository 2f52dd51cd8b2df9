"""The errors of Lengthwise: those of the wire, which servers share."""

from lengthwise_wire.errors import *  # noqa: F403  (all that its `__all__` names)
from lengthwise_wire.errors import __all__ as __all__
