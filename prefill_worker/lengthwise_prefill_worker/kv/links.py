"""The links of a prefill worker: at most one to each decode worker.

    asked for ──▶ opening ──▶ up ──▶ down, and thrown away
                     │ ▲
                     ▼ │ every REOPEN_SECONDS, while it is asked for
                   failed

Of a way that does not work only the first requests wait until that is known. While it is tried
again, others fail at once: their routers know other ways.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lengthwise_prefill_worker.kv.link import DecodeLink
from lengthwise_wire.errors import TransferFailed

logger = logging.getLogger(__name__)

REOPEN_SECONDS = 0.5
FORGET_SECONDS = 10.0
"""After the last request for it a link that has failed is not tried again."""

WorkerKey = tuple[str, str]
"""(address, worker_id) of a decode worker."""


@dataclass(slots=True, eq=False)
class _Opening:
    asked_at: float = 0.0
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    failure: TransferFailed | None = None
    task: asyncio.Task[None] | None = None


class DecodeLinks:
    """Runs on the event loop."""

    def __init__(self, new_link: Callable[[WorkerKey], DecodeLink], connect_seconds: float) -> None:
        """`new_link` makes one under a new name, or raises TransferFailed; it has `connect_seconds`
        to come up."""
        self._new_link = new_link
        self._connect_seconds = connect_seconds
        self._by_name: dict[str, DecodeLink] = {}
        self._up: dict[WorkerKey, DecodeLink] = {}
        self._opening: dict[WorkerKey, _Opening] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def named(self, name: str) -> DecodeLink | None:
        return self._by_name.get(name)

    async def to(self, key: WorkerKey) -> DecodeLink:
        """The link that is up, or will be. Errors: TransferFailed."""
        link = self._up.get(key)
        if link is not None:
            return link
        opening = self._opening.get(key)
        if opening is None:
            opening = self._opening[key] = _Opening()
            opening.task = asyncio.create_task(self._open(key, opening), name=f"open {key}")
        opening.asked_at = time.monotonic()
        if opening.failure is None:
            await opening.decided.wait()
        link = self._up.get(key)
        # It may have come up and gone down before this caller resumed.
        if link is None:
            raise opening.failure or TransferFailed(f"the KV link to {key[0]} is down already")
        return link

    def down(self, key: WorkerKey, link: DecodeLink) -> None:
        """It is of no use any more."""
        del self._by_name[link.name]
        if self._up.get(key) is link:
            del self._up[key]
        closing = asyncio.create_task(link.closed(), name=f"close {link.name}")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def close_all(self, reason: str) -> None:
        for link in list(self._by_name.values()):
            link.close(reason)

    async def close(self) -> None:
        tasks = [opening.task for opening in self._opening.values() if opening.task is not None]
        for task in tasks:
            task.cancel()
        self.close_all("this worker is going away")
        await asyncio.gather(*tasks, *self._closing, return_exceptions=True)

    async def _open(self, key: WorkerKey, opening: _Opening) -> None:
        try:
            while key not in self._up:
                try:
                    link = self._new_link(key)
                    self._by_name[link.name] = link
                    await link.open(self._connect_seconds)
                    self._up[key] = link
                except TransferFailed as failure:
                    if opening.failure is None:
                        logger.warning("%s", failure)
                    opening.failure = failure
                    opening.decided.set()
                    await asyncio.sleep(REOPEN_SECONDS)
                    if time.monotonic() - opening.asked_at > FORGET_SECONDS:
                        return
        finally:
            del self._opening[key]
            opening.decided.set()
