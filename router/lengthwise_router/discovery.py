"""Where the workers are. Discovery only proposes addresses: whether a worker is alive is learnt
from the worker.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from lengthwise_router.config import DiscoveryConfig

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2


class Discovery(Protocol):
    """A source of worker addresses."""

    def addresses(self) -> AsyncIterator[frozenset[str]]:
        """The addresses (host:port) of all workers, at first and on every change. Never ends."""


class StaticDiscovery:
    """Addresses that an operator wrote down."""

    def __init__(self, endpoints: tuple[str, ...]) -> None:
        self._endpoints = frozenset(endpoints)

    async def addresses(self) -> AsyncIterator[frozenset[str]]:
        yield self._endpoints
        await asyncio.Event().wait()  # until cancelled: the list never changes


class FolderDiscovery:
    """Workers on this machine, which announce themselves in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: frozenset[str] | None = None

    async def addresses(self) -> AsyncIterator[frozenset[str]]:
        while True:
            found = frozenset(self._read())
            if found != self._known:
                self._known = found
                yield found
            await asyncio.sleep(POLL_SECONDS)

    def _read(self) -> list[str]:
        addresses = []
        for path in self._folder.glob("*.json"):
            try:
                note = json.loads(path.read_text(encoding="utf-8"))
                if note["role"] in ("prefill", "decode"):
                    addresses.append(note["address"])
            except FileNotFoundError:
                continue  # its owner took it away meanwhile
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("announcement %s cannot be read: %s", path, error)
        return addresses


def discovery_of(config: DiscoveryConfig) -> Discovery:
    if config.folder is not None:
        return FolderDiscovery(config.folder)
    return StaticDiscovery(config.endpoints)
