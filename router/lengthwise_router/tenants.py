"""Who calls, and which tenant a call counts for: for shares, for explanations, for cached prefixes.

An API key names its tenant, and so does a certificate where there are no keys, whatever the request
says. Without either the request's word is taken: that shares fairly among callers that are honest,
and neither protects nor separates.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from lengthwise_policy.kv.salts import request_salt
from lengthwise_router.keys.keyring import UNLIMITED, Holder, KeyUsage
from lengthwise_wire.errors import InvalidRequest, PermissionDenied

Header = tuple[str, str | bytes]
"""Or what gRPC calls metadata; names are in lower case."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known for certain of the other end."""

    names: tuple[str, ...] = ()
    """Of its certificate; none: it has shown none."""
    headers: tuple[Header, ...] = ()
    """Of its call, but its key; some name the trace that the request is part of."""
    holder: Holder | None = None
    """Of its API key; None: there are no keys."""

    @property
    def models(self) -> tuple[str, ...] | None:
        """Names of those it may use; None: all."""
        return None if self.holder is None else self.holder.entry.models

    @property
    def usage(self) -> KeyUsage:
        return UNLIMITED if self.holder is None else self.holder.usage

    def check_admin(self) -> None:
        """Errors: PermissionDenied."""
        if not self.is_admin:
            raise PermissionDenied("this needs an API key with `admin: true`")

    @property
    def is_admin(self) -> bool:
        return self.holder is None or self.holder.entry.admin


UNKNOWN = Caller()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Whom a call counts for. Two are the same where their names are equal."""

    name: str
    is_separate: bool = False
    """Whether it shares no cached prefix with others."""
    priority: int | None = None
    """The most its requests may ask for, and what they get by default; None: any, and 0."""

    def salt(self, cache_salt: str) -> bytes:
        """Of a request; empty: it shares with all others that have none."""
        return request_salt(self.name if self.is_separate else "", cache_salt)

    def granted(self, priority: int) -> int:
        """Of what a request asks for; 0: nothing. Errors: InvalidRequest."""
        if self.priority is None:
            return priority
        if priority and priority > self.priority:
            raise InvalidRequest(
                f"priority: got {priority}, expected at most {self.priority}, the most that this"
                " API key may ask for"
            )
        return priority or self.priority


class Tenants:
    """By the router's configuration."""

    def __init__(self, *, gateways: Iterable[str], separate: bool) -> None:
        """`gateways`: names of callers that speak for others: what their requests declare counts,
        within what is theirs. `separate`: whether certificates and keys separate cached
        prefixes."""
        self._gateways = frozenset(gateways)
        self._separate = separate

    def of(self, caller: Caller, declared: str) -> Tenant:
        """`declared`: what the request says. Errors: PermissionDenied where a key says another."""
        if caller.holder is not None:
            return self._of_key(caller, caller.holder, declared)
        if not caller.names:
            return Tenant(name=declared)
        is_gateway = not self._gateways.isdisjoint(caller.names)
        name = _digest([caller.names, declared] if is_gateway else caller.names)
        return Tenant(name=name, is_separate=self._separate)

    def explained(self, caller: Caller, declared: str) -> str:
        """The name of the tenant whose requests a caller asks about. Errors: PermissionDenied."""
        if declared and caller.holder is not None and caller.is_admin:
            return declared
        return self.of(caller, declared).name

    def _of_key(self, caller: Caller, holder: Holder, declared: str) -> Tenant:
        name = holder.entry.name
        if declared not in ("", name):
            if self._gateways.isdisjoint((*caller.names, name)):
                raise PermissionDenied(
                    f"tenant: got {declared!r}, expected none or {name!r}, whose API key this is"
                )
            name = _digest([name, declared])
        return Tenant(name=name, is_separate=self._separate, priority=holder.entry.priority)


def _digest(names: object) -> str:
    """Unambiguous, whatever is in the names, and short, however many there are."""
    return blake2b(json.dumps(names).encode(), digest_size=16).hexdigest()
