"""Where the workers are. Discovery only proposes addresses: whether a worker is alive, its own
status shows."""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

from lengthwise_router.config import DiscoveryConfig
from lengthwise_router.labels import DiscoveryFailure
from lengthwise_runtime.config import ConfigError

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
    """Workers on this machine, which announce themselves in a folder.

    Notes appear and disappear whole and are never edited, so each is read once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._notes: dict[tuple[str, int], str | None] = {}  # (name, mtime) -> a worker's address

    async def addresses(self) -> AsyncIterator[frozenset[str]]:
        known: frozenset[str] | None = None
        while True:
            self._look()
            found = frozenset(address for address in self._notes.values() if address is not None)
            if found != known:
                known = found
                yield found
            await asyncio.sleep(POLL_SECONDS)

    def _look(self) -> None:
        notes: dict[tuple[str, int], str | None] = {}
        try:
            for entry in os.scandir(self._folder):
                if entry.name.endswith(".json"):
                    key = entry.name, entry.stat().st_mtime_ns
                    notes[key] = self._notes[key] if key in self._notes else _read(entry.path)
        except OSError as error:
            # A note was removed meanwhile, or the folder is missing: the next poll will see.
            logger.debug("looking into %s: %s", self._folder, error)
            return
        self._notes = notes


def _read(path: str) -> str | None:
    """The address in a worker's note; None for other roles and for what is no note."""
    try:
        note = json.loads(Path(path).read_text(encoding="utf-8"))
        return str(note["address"]) if note["role"] in ("prefill", "decode") else None
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s is not an announcement: %s", path, error)
        return None


def discovery_of(
    config: DiscoveryConfig, on_failure: Callable[[DiscoveryFailure], None]
) -> Discovery:
    """`on_failure` is called whenever Kubernetes cannot be asked.

    Errors: ConfigError when there is no such folder, or this is no pod: nothing would ever be
    found."""
    if config.kubernetes is not None:
        # Costs time and memory that processes outside of Kubernetes can do without.
        from lengthwise_router.discovery.kubernetes import in_cluster

        return in_cluster(config.kubernetes, on_failure)
    if config.folder is not None:
        if not config.folder.is_dir():
            raise ConfigError(f"discovery.folder: {config.folder} is no folder; create it first")
        return FolderDiscovery(config.folder)
    return StaticDiscovery(config.endpoints)
