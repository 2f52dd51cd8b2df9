"""Who holds which API key, as the file says now."""

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lengthwise_policy.admission.usage import Exceeded, LimitName, UsageLimits, UsageMeter
from lengthwise_router.keys.key_file import SELECTOR_DIGITS, KeyEntry, read_key_file
from lengthwise_router.keys.metrics import KeyMetrics
from lengthwise_runtime.config import ConfigError
from lengthwise_runtime.tls.credentials import file_version
from lengthwise_wire.errors import LimitExceeded, Unauthenticated

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Between two looks at the file."""

AUTHORIZATION: Final = "authorization"
"""The header that has the key."""

_EXPECTED: Final = "expected one authorization of the form 'Bearer KEY'"


class KeyUsage:
    """What a key's requests have used of its limits; of all of its tenant."""

    def __init__(self, meter: UsageMeter, count: Callable[[LimitName], None]) -> None:
        """`count`: called for each refusal."""
        self.meter = meter
        self._count = count

    @contextmanager
    def of_request(self, num_choices: int = 1) -> Iterator[None]:
        """From its arrival to its end. Errors: LimitExceeded."""
        self._check(self.meter.begin(time.monotonic(), num_choices))
        try:
            yield
        finally:
            self.meter.end(num_choices)

    def prompt(self, num_tokens: int) -> None:
        """Of a request that has begun. Errors: LimitExceeded."""
        self._check(self.meter.charge_prompt(num_tokens, time.monotonic()))

    def output(self, num_tokens: int) -> None:
        """Was generated."""
        self.meter.charge_output(num_tokens, time.monotonic())

    def _check(self, exceeded: Exceeded | None) -> None:
        if exceeded is not None:
            self._count(exceeded.limit)
            raise LimitExceeded(
                f"limit of this API key: {exceeded.reason};"
                f" expected to be asked again in {exceeded.retry_after_seconds:.3g} s",
                exceeded.retry_after_seconds,
            )


UNLIMITED: Final = KeyUsage(UsageMeter(UsageLimits()), lambda _: None)
"""Of callers without a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Whose key a call showed."""

    entry: KeyEntry
    usage: KeyUsage = field(repr=False, compare=False)


@dataclass(slots=True)
class _Holders:
    """Of one reading of the file."""

    by_name: dict[str, Holder] = field(default_factory=dict)
    by_hash: dict[str, tuple[str, Holder]] = field(default_factory=dict)
    """By the beginning of a key's hash, with all of it."""
    changes: list[tuple[UsageMeter, UsageLimits]] = field(default_factory=list)
    """Meters whose limits are others now."""


class Keyring:
    """Life: construct, `run` for ever."""

    def __init__(self, path: Path, *, router_replicas: int, metrics: KeyMetrics) -> None:
        """`router_replicas`: that share the limits. Errors: ConfigError."""
        self._path = path
        self._router_replicas = router_replicas
        self._metrics = metrics
        self._seen = file_version(path)
        self._held = _Holders()
        self._take(self._read())

    async def run(self) -> None:
        """Reads the file again whenever it has changed."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """What cannot be used changes nothing."""
        seen = await asyncio.to_thread(file_version, self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            found = await asyncio.to_thread(self._read)
        except ConfigError as error:
            self._metrics.read("failed")
            logger.error("the API keys stay as they were: %s", error)
        else:
            self._take(found)
            logger.info("keys file %s is read again: %d entries", self._path, len(found.by_name))

    def find(self, authorizations: Sequence[str | bytes]) -> Holder:
        """`authorizations`: the values of all headers of this name. Errors: Unauthenticated, which
        tell nothing of them."""
        if not authorizations:
            self._metrics.refused("no_key")
            raise Unauthenticated(f"authorization: got none, {_EXPECTED}")
        first = authorizations[0]
        text = first if isinstance(first, bytes) else first.encode("latin-1", "replace")
        scheme, _, key = text.partition(b" ")
        if len(authorizations) > 1 or scheme.lower() != b"bearer" or not key.strip():
            self._metrics.refused("no_key")
            raise Unauthenticated(f"authorization: got something else, {_EXPECTED}")
        digest = hashlib.sha256(key.strip()).hexdigest()
        known, holder = self._held.by_hash.get(digest[:SELECTOR_DIGITS], ("", None))
        if not hmac.compare_digest(known, digest) or holder is None:
            self._metrics.refused("unknown_key")
            raise Unauthenticated("authorization: got an API key that this router does not know")
        return holder

    def _read(self) -> _Holders:
        """Beside the event loop, which 10,000 entries would stop for 0.3 s. Errors: ConfigError."""
        found = _Holders()
        for entry in read_key_file(self._path):
            limits = entry.limits.share(self._router_replicas)
            known = self._held.by_name.get(entry.name)
            usage = known.usage if known else KeyUsage(UsageMeter(limits), self._metrics.refused)
            if usage.meter.limits != limits:
                found.changes.append((usage.meter, limits))
            holder = found.by_name[entry.name] = Holder(entry=entry, usage=usage)
            for each in entry.hashes:
                found.by_hash[each[:SELECTOR_DIGITS]] = each, holder
        return found

    def _take(self, found: _Holders) -> None:
        """What was used of limits that stay the same stays used."""
        for meter, limits in found.changes:
            meter.change(limits)
        found.changes.clear()
        self._held = found
        self._metrics.read("ok")
