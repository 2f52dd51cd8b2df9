"""The adapters that a worker holds, as requests name them: some in memory, the others on disk.

An adapter is in memory while requests are computed with it, and beyond that until its place is
needed: the one goes first that was not asked for for the longest. Places are overwritten on threads
of their own, while the engine goes on with the other ones.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final
from weakref import WeakSet

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_engine.models.adapters.files import AdapterFile
from lengthwise_engine.models.adapters.room import AdapterRoom
from lengthwise_wire.errors import NoWorkerAvailable, Overloaded
from lengthwise_worker.adapters.folder import AdapterFolder
from lengthwise_worker.adapters.lease import AdapterLease

SCAN_SECONDS: Final = 2.0
"""How often the folder is looked at."""

WAIT_SECONDS: Final = 5.0
"""For a place, when all of them are computed with."""

LEAVING_SECONDS: Final = 5.0
"""For what was replaced: two looks of another worker, so that a request finds one version at both
that compute it; and for routers to hear of it."""

_LOOK_SECONDS: Final = 0.02


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
        self._fixed = {} if room is None else {file.key: file for file in room.files}
        self._files = dict(self._fixed)
        self._left: dict[str, tuple[AdapterFile, float]] = {}
        """What is in the folder no more, and since when."""
        self._requests = dict.fromkeys(map(_name, self._files), 0)
        self._folder = None
        if room is not None and folder is not None:
            self._folder = AdapterFolder(folder, room, frozenset(self._requests))
        self._places = [
            _AdapterPlace(number) for number in range(0 if room is None else room.places)
        ]
        """Those that were not asked for for the longest come first."""
        for place, key in zip(self._places, self._fixed, strict=False):
            place.key = key
        self._loads: dict[str, asyncio.Task[AdapterLease]] = {}

    @property
    def keys(self) -> list[str]:
        names = set(map(_name, self._files))
        return [*self._files, *(key for key in self._left if _name(key) in names)]

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
        file = self._files.get(key)
        if file is None and key in self._left:
            file, _ = self._left[key]
        if file is None:
            raise NoWorkerAvailable(f"adapter: got {key[:100]!r}, which this worker does not hold")
        if (name := _name(key)) in self._requests:
            self._requests[name] += 1
        place = next((place for place in self._places if place.key == key), None)
        if place is not None:
            return self._leased(place)
        return await asyncio.shield(self._loading(file))

    async def follow(self) -> None:
        """Until cancelled: takes up what comes into the folder, and forgets what leaves it."""
        while self._folder is not None:
            held = {**await asyncio.to_thread(self._folder.scan), **self._fixed}
            now = time.monotonic()
            left = {**{key: (file, now) for key, file in self._files.items()}, **self._left}
            self._left = {
                key: (file, since)
                for key, (file, since) in left.items()
                if key not in held and now - since < LEAVING_SECONDS
            }
            self._files = held
            counts = {name: self._requests.get(name, 0) for name in map(_name, held)}
            self._requests = counts
            await asyncio.sleep(SCAN_SECONDS)

    def _leased(self, place: _AdapterPlace) -> AdapterLease:
        self._places.remove(place)
        self._places.append(place)
        lease = AdapterLease(place.number)
        place.leases.add(lease)
        return lease

    def _loading(self, file: AdapterFile) -> asyncio.Task[AdapterLease]:
        """All that wait for one adapter share its load, which goes on when one of them leaves: half
        of it in a place that is given to another would be computed with."""
        task = self._loads.get(file.key)
        if task is None:
            task = asyncio.create_task(self._load(file), name=f"load {file.key}")
            self._loads[file.key] = task
            task.add_done_callback(partial(self._ended, file.key))
        return task

    def _ended(self, key: str, task: asyncio.Task[AdapterLease]) -> None:
        del self._loads[key]
        if not task.cancelled():
            task.exception()  # nobody may be left to hear of it

    async def _load(self, file: AdapterFile) -> AdapterLease:
        assert self._room is not None
        place = await self._unused()
        place.key = ""  # until it is whole
        lease = self._leased(place)
        try:
            await asyncio.to_thread(self._room.put, place.number, file)
            if file.is_changed:
                raise CheckpointError(f"{file.key} was written to where it lies")
        except BaseException as error:
            place.leases.discard(lease)  # which the error's traceback would keep
            if isinstance(error, CheckpointError):
                raise NoWorkerAvailable(f"adapter: {error}") from error
            raise
        place.key = file.key
        return lease

    async def _unused(self) -> _AdapterPlace:
        for _ in range(round(WAIT_SECONDS / _LOOK_SECONDS)):
            for place in self._places:
                if not place.leases:
                    return place
            await asyncio.sleep(_LOOK_SECONDS)
        raise Overloaded(
            f"all {len(self._places)} places for adapters are computed with; raise adapter_places"
        )


def _name(key: str) -> str:
    return key.partition("@")[0]
