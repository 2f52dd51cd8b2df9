"""Who calls, and which tenant a call counts for: for shares, for explanations, for cached prefixes.

A certificate names its tenant, whatever the request says. Without one the request's word is taken:
that shares fairly among callers that are honest, and neither protects nor separates.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from lengthwise_policy.kv.salts import request_salt


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known for certain of the other end."""

    names: tuple[str, ...] = ()
    """Of its certificate; none: it has shown none."""
    headers: tuple[tuple[str, str | bytes], ...] = ()
    """Of its call; some name the trace that the request is part of."""


UNKNOWN = Caller()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Whom a call counts for. Two are the same where their names are equal."""

    name: str
    is_separate: bool = False
    """Whether it shares no cached prefix with others."""

    def salt(self, cache_salt: str) -> bytes:
        """Of a request; empty: it shares with all others that have none."""
        return request_salt(self.name if self.is_separate else "", cache_salt)


class Tenants:
    """By the router's configuration."""

    def __init__(self, *, gateways: Iterable[str], separate: bool) -> None:
        """`gateways`: names of callers that speak for others: what their requests declare counts,
        within what is theirs. `separate`: whether certificates separate cached prefixes."""
        self._gateways = frozenset(gateways)
        self._separate = separate

    def of(self, caller: Caller, declared: str) -> Tenant:
        """`declared`: what the request says."""
        if not caller.names:
            return Tenant(name=declared)
        is_gateway = not self._gateways.isdisjoint(caller.names)
        # Unambiguous, whatever is in the names, and short, however many there are.
        text = json.dumps([caller.names, declared] if is_gateway else caller.names)
        name = blake2b(text.encode(), digest_size=16).hexdigest()
        return Tenant(name=name, is_separate=self._separate)
