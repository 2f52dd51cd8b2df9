"""Images made without a builder, for tests: in the archives that `docker save` writes and every
container runtime loads.

    image_archive.py derive ARCHIVE NAME:TAG          adds an image: another label, the same files
    image_archive.py pack ARCHIVE NAME:TAG PROGRAM    a program and the libraries it loads
"""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def derive(archive: Path, name: str) -> None:
    """As `FROM the archive's image` and `LABEL` would. The layers are there once."""
    with tarfile.open(archive) as found:
        manifest = _read(found, MANIFEST)
        config = _read(found, manifest[0]["Config"])
    config["config"].setdefault("Labels", {})["lengthwise.test"] = name
    written = json.dumps(config).encode()
    other = {
        **manifest[0],
        "Config": f"{hashlib.sha256(written).hexdigest()}.json",
        "RepoTags": [name],
    }
    with tarfile.open(archive, "a") as changed:
        _add(changed, other["Config"], written)
        # The later of two files of one name counts.
        _add(changed, MANIFEST, json.dumps([manifest[0], other]).encode())


def pack(archive: Path, name: str, program: Path) -> None:
    """An image of one layer with nothing else in it; the program is its entry point."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        for path in (program, *_libraries(program)):
            # Where it is found may be a link, and its folder too.
            files.addfile(*_file(str(path), path.resolve().read_bytes(), 0o755))
    data = layer.getvalue()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [str(program)]},
            "rootfs": {
                "type": "layers",
                "diff_ids": [digest],
            },
        }
    ).encode()
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as image:
        _add(image, "layer.tar", data)
        _add(image, "config.json", config)
        _add(image, MANIFEST, json.dumps(manifest).encode())


def _libraries(program: Path) -> list[Path]:
    """Absolute paths of what the dynamic linker loads with it, the linker included."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [Path(word) for word in told.split() if word.startswith("/")]


def _read(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    assert file is not None
    return json.load(file)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    archive.addfile(*_file(name, data, 0o644))


def _file(name: str, data: bytes, mode: int) -> tuple[tarfile.TarInfo, io.BytesIO]:
    entry = tarfile.TarInfo(name.lstrip("/"))
    entry.size, entry.mode = len(data), mode
    return entry, io.BytesIO(data)


if __name__ == "__main__":
    verb, path, tag, *programs = sys.argv[1:]
    if verb == "derive":
        derive(Path(path), tag)
    else:
        pack(Path(path), tag, Path(programs[0]))
