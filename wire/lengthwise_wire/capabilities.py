"""What workers can do that older ones cannot.

proto3 drops fields that a receiver does not know, silently: an older worker would ignore them and
answer wrongly. So workers report the names of CAPABILITIES, and a router sends a request only to
workers that report all it needs.
"""

from collections.abc import Iterable

from lengthwise_policy.sampling import SamplingParameters
from lengthwise_wire.convert import sampling_to_wire
from lengthwise_wire.sampling_parameters import LATER_PARAMETERS
from lengthwise_wire.v1 import common_pb2

CACHE_SALT = "cache_salt"
"""Of requests with a salt: an older worker would share their blocks."""

GRAMMAR = "grammar"
"""Of requests with a constraint: an older worker would sample whatever is likely."""

_NUMERICS = "numerics "
"""Of requests that an invariant worker has begun, with the name of its numerics: another would go
on with other tokens."""

_ADAPTER = "adapter "
"""Of requests with an adapter, with its key: others do not hold it, or not this version of it."""

CAPABILITIES = (*LATER_PARAMETERS, CACHE_SALT, GRAMMAR)
"""In every worker's status. Names are never changed."""

PREFIX_CACHING = "prefix_caching"
"""In the status of workers that are configured for it: requests with the same prompt share blocks.
Another decode worker would compute the prompt of each sample of a call again."""

_NEUTRAL = {
    name: getattr(sampling_to_wire(SamplingParameters()), name) for name in LATER_PARAMETERS
}


def numerics_capability(numerics: str) -> tuple[str, ...]:
    """What an invariant worker reports besides; nothing for others, whose name is empty."""
    return (_NUMERICS + numerics,) if numerics else ()


def adapter_capability(key: str) -> str:
    """What a worker reports that holds this adapter."""
    return _ADAPTER + key


def held_adapters(capabilities: Iterable[str]) -> list[str]:
    """Keys, NAME@DIGEST, of the adapters that a worker with these holds."""
    return [name.removeprefix(_ADAPTER) for name in capabilities if name.startswith(_ADAPTER)]


def kept_capabilities(capabilities: Iterable[str]) -> frozenset[str]:
    """Those of a worker that every later worker of a request it has begun must have."""
    return frozenset(name for name in capabilities if name.startswith(_NUMERICS))


def needed_capabilities(sampling: common_pb2.SamplingParams) -> frozenset[str]:
    """`sampling` has every field set."""
    values = ((name, getattr(sampling, name), neutral) for name, neutral in _NEUTRAL.items())
    # Comparing two empty maps would take longer than all the rest.
    return frozenset(
        name for name, value, neutral in values if (value or neutral) and value != neutral
    )
