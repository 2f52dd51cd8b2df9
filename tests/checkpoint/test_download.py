"""What the hub's own client fetches, from a hub of a few lines, is told in bytes."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789" * 4
FILES = {"config.json": b"{}", "model.safetensors": bytes(3 << 20), "picture.png": b"not asked for"}
GGUF_FILES = {
    "README.md": b"not asked for",
    "model-00001-of-00002.gguf": bytes(1 << 20),
    "model-00002-of-00002.gguf": bytes(1 << 20),
}
TREE_OF = "/api/models/owner/name/tree/"
TREE = f"{TREE_OF}{COMMIT}"


class Hub(BaseHTTPRequestHandler):
    """One repository with one commit."""

    files: Mapping[str, bytes] = FILES

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        headers = {"X-Repo-Commit": COMMIT, "Content-Type": "application/json"}
        if path.startswith("/api/models/owner/name/revision/"):
            data = json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": []}).encode()
        elif path in (TREE, f"{TREE_OF}main"):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": etag(data)}
                for name, data in self.files.items()
            ]
            data = json.dumps(entries).encode()
        elif (name := path.rpartition("/")[2]) not in self.files:
            self.send_error(404)
            return
        else:
            data = self.files[name]
            headers |= {"ETag": f'"{etag(data)}"', "Accept-Ranges": "bytes"}
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


FETCH = """
import logging, sys
from lengthwise_checkpoint.hub import MODEL_FILES, find_checkpoint
logging.basicConfig(level="INFO", format="%(name)s %(message)s")
print(find_checkpoint(sys.argv[1], MODEL_FILES))
"""


@pytest.mark.slow
def test_a_download_logs_its_bytes_once_and_draws_nothing(hub: str, tmp_path: Path) -> None:
    env = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}

    def fetch() -> tuple[Path, list[str]]:
        result = subprocess.run(
            [sys.executable, "-c", FETCH, "owner/name"],
            capture_output=True, text=True, timeout=60, check=True, env=env,
        )  # fmt: skip
        told = [line for line in result.stderr.splitlines() if "httpx" not in line]
        return Path(result.stdout.strip()), told

    folder, told = fetch()
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").stat().st_size == 3 << 20
    assert told[0].startswith("lengthwise_checkpoint.progress fetching owner/name: ")
    assert told[-1].startswith("lengthwise_checkpoint.progress fetched owner/name: 3 MiB in ")
    assert not [line for line in told if "%" in line], "bars"
    again, told = fetch()
    assert (again, told) == (folder, []), "it is there already"


@pytest.mark.slow
def test_a_repository_with_one_gguf_model_is_all_its_parts_and_nothing_else(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hub, "files", GGUF_FILES)
    for name in ("owner/name", "owner/name/model-00001-of-00002.gguf"):
        home = tmp_path / name.rpartition("/")[2]
        env = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        result = subprocess.run(
            [sys.executable, "-c", FETCH, name],
            capture_output=True, text=True, timeout=60, check=True, env=env,
        )  # fmt: skip
        first = Path(result.stdout.strip())
        assert first.name == "model-00001-of-00002.gguf"
        parts = {path.name: path.stat().st_size for path in first.parent.iterdir()}
        assert parts == {each: 1 << 20 for each in GGUF_FILES if each != "README.md"}
