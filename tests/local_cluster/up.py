"""What `lengthwise up` runs, over stand-ins. Its argument is JSON: arguments of LocalCluster, and
`interrupted_at`: the start of a process in which an interrupt arrives, counted from 1."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from lengthwise_cli.main import reported
from lengthwise_cli.up import run
from lengthwise_local import LocalCluster, Role

arguments = json.loads(sys.argv[1])
interrupted_at = arguments.pop("interrupted_at", 0)
num_starts = 0


class InterruptedPopen(subprocess.Popen[bytes]):
    """The signal arrives when the process runs and its starter does not know of it yet."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        global num_starts
        super().__init__(*args, **kwargs)  # type: ignore[call-overload]
        num_starts += 1
        if num_starts == interrupted_at:
            os.kill(os.getpid(), signal.SIGINT)


subprocess.Popen = InterruptedPopen  # type: ignore[misc, assignment]
command = (sys.executable, "-S", str(Path(__file__).with_name("stand_in.py")))
commands: dict[Role, tuple[str, ...]] = {"prefill": command, "decode": command, "router": command}
reported(lambda: run(LocalCluster(commands=commands, **arguments)))
