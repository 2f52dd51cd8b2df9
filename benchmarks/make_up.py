"""How long a stranger waits: seconds and megabytes from a clone to the first completion.

Run `python -m make_up`; it clones this checkout into a temporary folder, runs `make up` there with
a new environment, and appends to benchmarks/data/make_up.csv. Most of the time is downloads, so it
depends on how far away the package registry is.
"""

import argparse
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from rows import append_rows

ROOT = Path(__file__).resolve().parents[1]

FIRST_COMPLETION = "output tokens"
"""In the line that comes after its text."""

GIVE_UP_SECONDS = 600.0


def measure(clone: Path) -> dict[str, object]:
    """Errors: RuntimeError."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    began_at = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    with subprocess.Popen(
        ["make", "up"], cwd=clone, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        num_lines, seconds, line = 0, 0.0, ""
        for line in process.stdout:
            num_lines += bool(line.strip())
            seconds = time.perf_counter() - began_at
            if FIRST_COMPLETION in line or seconds > GIVE_UP_SECONDS:
                break
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    if FIRST_COMPLETION not in line:
        raise RuntimeError(f"make up ended after {seconds:.0f} s without a completion: {line!r}")
    used = subprocess.run(
        ["du", "--summarize", "--block-size=1M", ".venv"],
        cwd=clone, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return {
        "seconds": round(seconds, 1),
        "installed_mib": int(used.stdout.split()[0]),
        "lines": num_lines,
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = measure(Path(folder) / "lengthwise")
    print(row)
    append_rows("make_up", [row])


if __name__ == "__main__":
    main()
