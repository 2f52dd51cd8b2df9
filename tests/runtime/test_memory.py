"""How much memory a process may take, read from file systems as containers and machines have
them."""

from pathlib import Path

import pytest

from lengthwise_runtime.memory import usable_memory_bytes

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    meminfo = f"MemTotal: {16 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {10 * 2**20} kB\n"
    for name, text in {"proc/meminfo": meminfo, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(folder: str, limit: str, used: int, kept: int) -> dict[str, str]:
    folder = f"sys/fs/cgroup{folder}"
    stat = f"anon 5\nfile 7\nactive_file {kept // 2}\ninactive_file {kept // 2}\n"
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": stat,
    }


def v1(folder: str, limit: int, used: int, kept: int) -> dict[str, str]:
    folder = f"sys/fs/cgroup/memory{folder}"
    stat = f"active_file 0\ntotal_active_file {kept // 2}\ntotal_inactive_file {kept // 2}\n"
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": stat,
    }


NO_LIMIT = 9223372036854771712
"""How v1 says so."""


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 10 * GIB, id="no cgroups"),
        pytest.param({"proc/self/cgroup": "0::/\n"}, 10 * GIB, id="v2 root"),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", **v2("", str(2 * GIB), GIB // 2, GIB // 4)},
            2 * GIB - GIB // 4,
            id="v2 container, files can go",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                **v2("/a", str(3 * GIB), 0, 0),
                **v2("/a/b", "max", 0, 0),
            },
            3 * GIB,
            id="v2 limit of a group above",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", **v2("", str(64 * GIB), 0, 0)},
            10 * GIB,
            id="v2 limit beyond the machine",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", **v2("", str(GIB), 2 * GIB, 0)}, 0, id="v2 full"
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/x\n1:name=systemd:/\n",
                **v1("", 4 * GIB, GIB, 2 * GIB),
            },
            4 * GIB,
            id="v1 container, the path is the host's",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/x/y\n",
                **v1("", NO_LIMIT, 0, 0),
                **v1("/x", 5 * GIB, GIB, 0),
                **v1("/x/y", NO_LIMIT, GIB, 0),
            },
            4 * GIB,
            id="v1 limit of a group above",
        ),
    ],
)
def test_limits_and_what_is_used_of_them_count(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    assert usable_memory_bytes(write(tmp_path, files)) == expected


def test_it_is_known_of_this_process() -> None:
    assert usable_memory_bytes() > 0
