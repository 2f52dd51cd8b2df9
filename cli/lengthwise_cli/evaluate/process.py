"""The process that evaluates: the command line itself has no torch.

It ends with the command, however that ends.
"""

import json
import subprocess
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any, Final

from rich.console import Console
from rich.status import Status

from lengthwise_cli.errors import CommandError
from lengthwise_cli.terminal import knows_unicode, say
from lengthwise_local.process import TIED

MODULE: Final = "lengthwise_worker.accuracy"
KILLED: Final = -9


class EvaluationProcess:
    """One evaluation; `request` as `lengthwise_worker.accuracy.evaluation` has it."""

    def __init__(self, request: Mapping[str, object]) -> None:
        if find_spec("torch") is None:
            raise CommandError('evaluate needs torch: pip install "lengthwise[cli,worker]"')
        self._request = request
        self._told = ""

    def run(self) -> dict[str, Any]:
        """What came of it; tells how far it is on standard error. Errors: CommandError."""
        console = Console(stderr=True, highlight=False, markup=False)
        spinner = "dots" if knows_unicode(console.file) else "line"
        status = console.status("starting", spinner=spinner) if console.is_terminal else None
        # In a group of its own, which is killed when its standard input ends.
        process = subprocess.Popen(
            [*TIED, MODULE, json.dumps(self._request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        last: dict[str, Any] = {}
        with process, status or nullcontext():
            for line in process.stdout:
                last = json.loads(line)
                if "doing" in last:
                    self._tell(last, status)
            code = process.wait()
        if "error" in last:
            raise CommandError(last["error"])
        if "record" not in last:
            memory = "; it was killed, perhaps for its memory" if code == KILLED else ""
            raise CommandError(f"the evaluation ended with exit code {code}{memory}")
        return last

    def _tell(self, progress: Mapping[str, Any], status: Status | None) -> None:
        doing, done, total = progress["doing"], progress["done"], progress["total"]
        share = f": {done:,} of {total:,} tokens" if total else ""
        if status is not None:
            status.update(f"{doing}{share}")
        elif doing != self._told:
            self._told = doing
            say(f"{doing}{f', {total:,} tokens' if total else ''}")
