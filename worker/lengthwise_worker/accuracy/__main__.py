"""The process of `lengthwise evaluate`: an `EvaluationRequest` as JSON is its argument, lines of
JSON on standard output are how far it is and, last, what came of it."""

import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_engine.accuracy.record import records_folder
from lengthwise_engine.errors import EngineError
from lengthwise_worker.accuracy.evaluation import EvaluationRequest, evaluate

TELL_SECONDS: Final = 0.5


class _Progress:
    def __init__(self) -> None:
        self._told_at = 0.0
        self._doing = ""

    def __call__(self, doing: str, done: int = 0, total: int = 0) -> None:
        now = time.monotonic()
        if doing != self._doing or now - self._told_at > TELL_SECONDS:
            self._doing, self._told_at = doing, now
            _say(doing=doing, done=done, total=total)


def main() -> None:
    try:
        request = msgspec.json.decode(sys.argv[1], type=EvaluationRequest)
        record = evaluate(request, _Progress())
        path = record.write(Path(request.records) if request.records else records_folder())
    except (EngineError, CheckpointError, msgspec.ValidationError) as error:
        _say(error=str(error))
        sys.exit(1)
    except OSError as error:
        _say(error=f"{error.filename}: {error.strerror}")
        sys.exit(1)
    increases = [text.perplexity_increase for text in record.texts]
    _say(record=record, increases=increases, failures=record.failures(), path=str(path))


def _say(**values: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(values) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
