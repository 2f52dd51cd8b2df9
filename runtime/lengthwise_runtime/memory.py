"""How much of a machine's memory this process may still take."""

from collections.abc import Iterator
from pathlib import Path


def usable_memory_bytes(root: Path = Path("/")) -> int:
    """What the limits of this process's control groups leave (cgroup v2 or v1, every level of
    them), at most what the machine has available. Files that the kernel keeps in memory and can
    drop count as free. `root`: of the file system with `proc` and `sys`."""
    return min((_available(root), *_rooms(root)))


def _available(root: Path) -> int:
    """As /proc/meminfo has it: without swapping."""
    for line in (root / "proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise OSError(f"{root / 'proc/meminfo'}: no line MemAvailable")


def _rooms(root: Path) -> Iterator[int]:
    mounts = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            yield from _up(mounts, path, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
            yield from _up(mounts / "memory", path, *names)


def _up(mount: Path, path: str, limit: str, usage: str, prefix: str) -> Iterator[int]:
    """The room at each level from `path` up to the mount, which in a container is its own group
    whatever the path says."""
    folder = mount / path.lstrip("/")
    for level in (folder, *folder.parents):
        if mount != level and mount not in level.parents:
            return
        try:
            most = (level / limit).read_text().strip()
            if most == "max":
                continue
            used = int((level / usage).read_text())
            stat = dict(line.split(maxsplit=1) for line in _lines(level / "memory.stat"))
        except FileNotFoundError:
            continue  # the root group of v2 has no limit, and a container sees no other's folders
        kept = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
        yield max(0, int(most) - max(0, used - kept))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
