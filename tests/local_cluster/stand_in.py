"""Stands in for a router or worker: announces itself, and ends on SIGTERM. Its configuration's
`behaviour` makes it misbehave."""

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

config_file = Path(sys.argv[sys.argv.index("--config") + 1])
config = json.loads(config_file.read_text())
behaviour = config.get("behaviour", "")
print(f"behaviour: {behaviour or 'good'}", flush=True)

if behaviour == "crash":
    sys.exit("cannot allocate the cache")
if behaviour == "load":
    print("12:00:00.000 INFO decode-worker loading m[odel]: 16 of 64 MiB, 1.5 s", flush=True)
if behaviour == "refuse":
    print("12:00:00.000 ERROR decode-worker device: got cuda, but torch finds no GPU", flush=True)
    sys.exit(2)
started_before = Path(f"{config_file.stem}.started").exists()
Path(f"{config_file.stem}.started").touch()
if behaviour == "crash-later" and started_before:
    sys.exit("crashed again")

stopping = behaviour != "stubborn"
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0) if stopping else None)

if behaviour == "parent":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path("grandchild").write_text(str(child.pid))

worker_id = uuid.uuid4().hex
port = int(config["listen"].rpartition(":")[2]) or 40_000 + os.getpid() % 10_000
note = Path(config["announce_folder"]) / f"{worker_id}.json"
if behaviour not in ("mute", "load") and not (behaviour == "mute-later" and started_before):
    partial = note.with_suffix(".partial")
    partial.write_text(
        json.dumps(
            {
                "address": f"127.0.0.1:{port}",
                "role": "router" if "discovery" in config else "worker",
                "worker_id": worker_id,
                "pid": os.getpid(),
                "metrics": "127.0.0.1:9",
            }
        )
    )
    partial.replace(note)
try:
    while True:
        signal.pause()
finally:
    note.unlink(missing_ok=True)
