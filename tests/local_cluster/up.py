"""What `lengthwise up` runs, over stand-ins. Its argument is JSON: arguments of LocalCluster."""

import json
import sys
from pathlib import Path

from lengthwise_cli.main import reported
from lengthwise_cli.up import run
from lengthwise_local import LocalCluster, Role

command = (sys.executable, "-S", str(Path(__file__).with_name("stand_in.py")))
commands: dict[Role, tuple[str, ...]] = {"prefill": command, "decode": command, "router": command}
reported(lambda: run(LocalCluster(commands=commands, **json.loads(sys.argv[1]))))
