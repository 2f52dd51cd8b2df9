"""An engine in a process group of its own, which computes only while it is asked."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

HERE: Final = Path(__file__).parent
START_SECONDS: Final = 1800.0
"""The first time vLLM compiles, for minutes."""
CASE_SECONDS: Final = 300.0
END_SECONDS: Final = 30.0


class EngineProcess:
    """Asks by lines of JSON on its standard input; answers are lines on a pipe of their own."""

    def __init__(
        self, python: Path, script: str, model: Path, cores: Sequence[int], **environment: str
    ) -> None:
        """Returns once it has loaded the model."""
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - until the process has ended
        answers, answering = os.pipe()
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # the child's
        try:
            self._process = subprocess.Popen(
                [python, HERE / script, model, str(answering)],
                env={**os.environ, "OMP_NUM_THREADS": str(len(cores)), **environment},
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=[answering],
                start_new_session=True,
                text=True,
            )
        finally:
            os.sched_setaffinity(0, before)
            os.close(answering)
        self._answers = os.fdopen(answers)
        try:
            self._answer(START_SECONDS)
            self._signal(signal.SIGSTOP)
        except BaseException:
            self.close()
            raise

    @classmethod
    def ours(cls, model: Path, cores: Sequence[int]) -> Self:
        return cls(Path(sys.executable), "ours.py", model, cores)

    @classmethod
    def vllm(cls, environment: Path, model: Path, cores: Sequence[int], binding: str) -> Self:
        """In its default settings but for prefixes, which it would find again, and for `binding`:
        the cores that it computes on, or «auto», which spares one of them for its scheduler."""
        return cls(
            environment.absolute() / "bin/python", "theirs.py", model, cores,
            PYTHONPATH="", VLLM_CPU_KVCACHE_SPACE="4", VLLM_NO_USAGE_STATS="1",
            VLLM_CPU_OMP_THREADS_BIND=binding,
        )  # fmt: skip

    def ask(self, case: Mapping[str, object]) -> str:
        """Errors: RuntimeError with the end of its log."""
        self._signal(signal.SIGCONT)
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(case) + "\n")
            self._process.stdin.flush()
            return self._answer(CASE_SECONDS)
        finally:
            self._signal(signal.SIGSTOP)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait(CASE_SECONDS)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._answers.close()
        self._log.close()

    def _answer(self, seconds: float) -> str:
        ready, _, _ = select.select([self._answers], [], [], seconds)
        if ready and (line := self._answers.readline()):
            return line.strip()
        why = f"no answer in {seconds} s"
        if ready:  # it ends, and may have yet to say why
            with suppress(subprocess.TimeoutExpired):
                why = f"it ended with {self._process.wait(END_SECONDS)}"
        self._log.seek(0)
        raise RuntimeError(f"{why}; its log ends: {self._log.read()[-3000:]}")

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
