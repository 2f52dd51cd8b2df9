"""A folder whose folders are adapters while they are there.

Whoever may write to it is trusted to add adapters, and not trusted to do so well: whatever lies in
it, the worker goes on. What cannot be used is told once, and tried again when its files change.
"""

import logging
from collections.abc import Collection, Iterator
from pathlib import Path

from lengthwise_checkpoint.adapters.adapter_config import CONFIG, WEIGHTS
from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_engine.models.adapters.files import AdapterFile
from lengthwise_engine.models.adapters.room import AdapterRoom
from lengthwise_worker.config import ADAPTER_NAME, MAX_ADAPTERS

logger = logging.getLogger(__name__)

Versions = tuple[int, ...]


class AdapterFolder:
    """Looked at again and again, on one thread at a time."""

    def __init__(self, path: Path, room: AdapterRoom, taken: Collection[str]) -> None:
        """`taken`: names of adapters that come from elsewhere."""
        self._path = path
        self._room = room
        self._taken = taken
        self._most = MAX_ADAPTERS - len(taken)
        self._read: dict[str, tuple[Versions, AdapterFile | None]] = {}
        self._was_full = False

    def scan(self) -> dict[str, AdapterFile]:
        """What can be used, by its key; of too many the first by name. Each is an open file, and
        those that are not served are not opened."""
        found: dict[str, AdapterFile] = {}
        read: dict[str, tuple[Versions, AdapterFile | None]] = {}
        is_full = False
        for path, versions in self._folders():
            if len(found) == self._most:
                is_full = True
                break
            name = path.name
            before = self._read.get(name)
            is_known = before is not None and before[0] == versions
            file = before[1] if before is not None and is_known else self._use(name, path)
            read[name] = versions, file
            if file is not None:
                found[file.key] = file
        if is_full and not self._was_full:
            logger.warning(
                "adapters_folder %s: of more than %d adapters the first are served, by name",
                *(self._path, self._most),
            )
        self._read, self._was_full = read, is_full
        return found

    def _folders(self) -> Iterator[tuple[Path, Versions]]:
        """That have both files. A name that begins with a dot is of what is still being written, or
        of a volume's own."""
        try:
            paths = sorted(self._path.iterdir())
        except OSError as error:
            logger.warning("adapters_folder %s cannot be read: %s", self._path, error)
            return
        for path in paths:
            if not path.name.startswith(".") and (versions := _versions(path)):
                yield path, versions

    def _use(self, name: str, path: Path) -> AdapterFile | None:
        try:
            if not ADAPTER_NAME.fullmatch(name):
                raise CheckpointError(f"its name does not match {ADAPTER_NAME.pattern}")
            if name in self._taken:
                raise CheckpointError("another one of this name is among `adapters`")
            file = self._room.read(name, path)
        except (CheckpointError, OSError) as error:  # OSError: it went away meanwhile
            logger.warning("adapter %r is not served: %s", name, error)
            return None
        logger.info("adapter %s is served as %s", name, file.key)
        return file


def _versions(folder: Path) -> Versions:
    """What changes when either file does; empty where one is missing."""
    try:
        found = [(folder / name).stat() for name in (CONFIG, WEIGHTS)]
    except (OSError, ValueError):  # ValueError: no file has such a name
        return ()
    return tuple(each for one in found for each in (one.st_ino, one.st_size, one.st_mtime_ns))
