"""The adapters that a worker holds, as requests name them: some in memory, the others on disk.

An adapter is in memory while requests are computed with it, and beyond that until its place is
needed: the one goes first that was not asked for for the longest. Places are overwritten on a
thread of their own, while the engine goes on with the other ones.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from weakref import WeakSet

from lengthwise_checkpoint.adapters.adapter_config import CONFIG, WEIGHTS
from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_engine.models.adapters.files import AdapterFile
from lengthwise_engine.models.adapters.room import AdapterRoom
from lengthwise_wire.errors import NoWorkerAvailable, Overloaded
from lengthwise_worker.config import ADAPTER_NAME, MAX_ADAPTERS

logger = logging.getLogger(__name__)

SCAN_SECONDS: Final = 2.0
"""How often the folder is looked at."""

WAIT_SECONDS: Final = 5.0
"""For a place, when all of them are computed with."""

_LOOK_SECONDS: Final = 0.02


class AdapterLease:
    """Keeps an adapter where it is for as long as anything refers to it."""

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int) -> None:
        """`number`: by which the engine knows the adapter."""
        self.number = number


def number_of(lease: AdapterLease | None) -> int | None:
    return None if lease is None else lease.number


@dataclass(slots=True)
class _AdapterPlace:
    number: int
    key: str = ""
    leases: WeakSet[AdapterLease] = field(default_factory=WeakSet)


class HeldAdapters:
    """By their keys, NAME@DIGEST, which routers learn from the worker's capabilities."""

    def __init__(self, room: AdapterRoom | None, folder: Path | None = None) -> None:
        """`folder`: each folder in it is an adapter too, while it is there."""
        self._room = room
        self._folder = folder
        self._fixed = {} if room is None else {file.key: file for file in room.files}
        self._files = dict(self._fixed)
        self._places = [
            _AdapterPlace(number) for number in range(0 if room is None else room.places)
        ]
        """Those that were not asked for for the longest come first."""
        for place, key in zip(self._places, self._fixed, strict=False):
            place.key = key
        self._loading = asyncio.Lock()
        self._seen: dict[str, tuple[int, ...]] = {}
        self._requests = dict.fromkeys(map(_name, self._files), 0)

    @property
    def keys(self) -> list[str]:
        return list(self._files)

    @property
    def requests(self) -> Mapping[str, int]:
        """That were computed with each adapter, by its name, since it is held."""
        return self._requests

    async def lease(self, key: str) -> AdapterLease | None:
        """Of a request's adapter, loaded where it was not; None: it has none.

        Errors: NoWorkerAvailable for one that is not held, since another worker may hold it;
        Overloaded when every place is computed with.
        """
        if not key:
            return None
        if key not in self._files:
            raise NoWorkerAvailable(f"adapter: got {key[:100]!r}, which this worker does not hold")
        self._requests[_name(key)] += 1
        file, place = self._files[key], self._find(key)
        if place is None:
            async with self._loading:
                place = self._find(key) or await self._load(file)
        self._places.remove(place)
        self._places.append(place)
        lease = AdapterLease(place.number)
        place.leases.add(lease)
        return lease

    async def follow(self) -> None:
        """Until cancelled: takes up what comes into the folder, and forgets what leaves it."""
        while self._folder is not None and self._room is not None:
            found = await asyncio.to_thread(self._scan, self._folder, self._room)
            self._files = {**found, **self._fixed}
            counts = {name: self._requests.get(name, 0) for name in map(_name, self._files)}
            self._requests = counts
            await asyncio.sleep(SCAN_SECONDS)

    def _find(self, key: str) -> _AdapterPlace | None:
        return next((place for place in self._places if place.key == key), None)

    async def _load(self, file: AdapterFile) -> _AdapterPlace:
        assert self._room is not None
        if file.is_changed:
            raise NoWorkerAvailable(f"adapter: {file.key} was written to where it lies")
        place = await self._unused()
        place.key = ""  # until it is whole
        await asyncio.to_thread(self._room.put, place.number, file)
        place.key = file.key
        return place

    async def _unused(self) -> _AdapterPlace:
        for _ in range(round(WAIT_SECONDS / _LOOK_SECONDS)):
            for place in self._places:
                if not place.leases:
                    return place
            await asyncio.sleep(_LOOK_SECONDS)
        raise Overloaded(
            f"all {len(self._places)} places for adapters are computed with; raise adapter_places"
        )

    def _scan(self, folder: Path, room: AdapterRoom) -> dict[str, AdapterFile]:
        """The adapters in the folder. What cannot be used is told once."""
        known = {_name(key): file for key, file in self._files.items()}
        fixed = set(map(_name, self._fixed))
        found: dict[str, AdapterFile] = {}
        seen: dict[str, tuple[int, ...]] = {}
        for path in _paths(folder):
            name, versions = path.name, _versions(path)
            if not versions or name in fixed or not ADAPTER_NAME.fullmatch(name):
                continue
            seen[name] = versions
            if self._seen.get(name) == versions:
                if name in known:
                    found[known[name].key] = known[name]
                continue
            try:
                file = room.read(name, path)
            except CheckpointError as error:
                logger.warning("adapter %s is not served: %s", name, error)
                continue
            found[file.key] = file
            logger.info("adapter %s is served as %s", name, file.key)
        self._seen = seen
        return dict(list(found.items())[: MAX_ADAPTERS - len(fixed)])


def _name(key: str) -> str:
    return key.partition("@")[0]


def _paths(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        logger.warning("adapters_folder %s cannot be read: %s", folder, error)
        return []


def _versions(folder: Path) -> tuple[int, ...]:
    """What changes when either file does; empty where one is missing."""
    try:
        found = [(folder / name).stat() for name in (CONFIG, WEIGHTS)]
    except OSError:
        return ()
    return tuple(each for one in found for each in (one.st_ino, one.st_size, one.st_mtime_ns))
