"""A real Prometheus with targets that tests give it, labelled as the chart's PodMonitor does."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

NAMESPACE = "llm"

SCRAPE_SECONDS = 0.5


class PrometheusServer:
    """Keeps its port and data over `stop` and `start`."""

    def __init__(self, folder: Path, rules: Sequence[Path] = ()) -> None:
        program = shutil.which("prometheus")
        if program is None:
            pytest.skip("there is no program `prometheus`: install Debian's package of that name")
        self._program = program
        self._folder = folder
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._targets = folder / "targets.json"
        self.scrape([])
        config = {
            "global": {
                "scrape_interval": f"{1000 * SCRAPE_SECONDS:.0f}ms",
                "scrape_timeout": "500ms",
                "evaluation_interval": f"{1000 * SCRAPE_SECONDS:.0f}ms",
            },
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [
                {
                    "job_name": "lengthwise",
                    "honor_labels": True,
                    "file_sd_configs": [
                        {"files": [str(self._targets)], "refresh_interval": "200ms"}
                    ],
                }
            ],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def scrape(self, targets: Sequence[tuple[str, dict[str, str]]]) -> None:
        """From now on these, as (host:port, labels)."""
        entries = [{"targets": [address], "labels": labels} for address, labels in targets]
        new = self._targets.with_suffix(".new")
        new.write_text(json.dumps(entries))
        new.rename(self._targets)

    def start(self) -> None:
        self.launch()
        self.until_ready()

    def launch(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    f"--config.file={self._folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "GOMAXPROCS": "1"},
            )

    def until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + 20
        while not self._is_ready():
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            assert self._process.poll() is None, (self._folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def query(self, text: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': text})}"
        with urllib.request.urlopen(url, timeout=5) as response:
            result: list[dict[str, Any]] = json.load(response)["data"]["result"]
        return result

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _free_port() -> int:
    """Prometheus does not report which port it was given."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
