"""One number for every byte of a checkpoint's weights.

Each tensor is hashed right after it was copied, while its pages are still in memory, so that
hashing costs no second read of the disk. The number is kept under the files' identities on this
machine (device, inode, size and times), so that the next start of a worker hashes nothing.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import xxhash

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_engine.models.tensor_file import TensorFile

logger = logging.getLogger(__name__)

FRESH_SECONDS: Final = 2.0
"""A file changed so lately may change again within the same tick of its file system's clock, and
keep its times."""

_PART_BYTES: Final = 4 << 20
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class WeightsDigest:
    """Of safetensors files, by name."""

    def __init__(self, files: Mapping[str, TensorFile]) -> None:
        self._files = dict(files)
        self._identity = self._identify()
        self._cache = cache_folder() / "weights" / _key(self._identity)
        self._known = self._read_cache()
        self._tensors: dict[str, str] = {}  # digests, by name
        self._part = memoryview(bytearray(0 if self._known else _PART_BYTES))

    def add(self, file_name: str, tensor: str) -> None:
        """Hashes a tensor that has just been read."""
        if self._known or tensor in self._tensors:
            return
        self._tensors[tensor] = self._hash(self._files[file_name], tensor)

    def finish(self) -> str:
        """64 hex digits; hashes what has not been read.

        Raises `CheckpointError` where a file has changed since this was made.
        """
        digest = self._known
        if not digest:
            for file_name, file in self._files.items():
                for tensor in file.places:
                    self.add(file_name, tensor)
            lines = (f"{name!r} {each}\n" for name, each in sorted(self._tensors.items()))
            digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        if self._identify() != self._identity:
            folder = next(iter(self._files.values())).path.parent
            raise CheckpointError(f"{folder}: the weights were changed while they were loaded")
        if not self._known:
            self._write_cache(digest)
        return digest

    def _hash(self, file: TensorFile, tensor: str) -> str:
        """Of its type, its shape and its bytes."""
        place = file.places[tensor]
        digest = xxhash.xxh3_128(f"{place.dtype} {list(place.shape)} ".encode())
        at = place.begin
        while at < place.end:
            count = os.preadv(file.descriptor, [self._part[: place.end - at]], at)
            if not count:
                break  # it was made shorter, which its size shows in the end
            digest.update(self._part[:count])
            at += count
        return digest.hexdigest()

    def _identify(self) -> list[tuple[str, int, int, int, int, int]]:
        found = []
        for name, file in sorted(self._files.items()):
            stat = file.path.stat()
            times = stat.st_mtime_ns, stat.st_ctime_ns
            found.append((name, stat.st_dev, stat.st_ino, stat.st_size, *times))
        return found

    def _read_cache(self) -> str:
        """Empty where there is nothing to be had."""
        try:
            with self._cache.open(encoding="ascii") as file:
                text = file.read(65)
        except (OSError, ValueError):
            return ""
        return text if _DIGEST.fullmatch(text) else ""

    def _write_cache(self, digest: str) -> None:
        age = time.time() - max(times[-1] for times in self._identity) / 1e9
        if age < FRESH_SECONDS or not self._cache.is_absolute():
            return
        part = self._cache.with_suffix(f".{os.getpid()}")
        try:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(digest, encoding="ascii")
            part.replace(self._cache)
        except OSError as error:
            logger.info("weights are hashed again at the next start: %s", error)


def cache_folder() -> Path:
    """LENGTHWISE_CACHE, else `lengthwise` in XDG_CACHE_HOME, else in ~/.cache; relative, and not
    used, for a user without a home."""
    own = os.environ.get("LENGTHWISE_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "lengthwise"


def _key(identity: object) -> str:
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
