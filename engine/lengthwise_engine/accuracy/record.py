"""What an evaluation leaves behind, and what a start-up finds of it.

A record is of one checkpoint, by its fingerprint, in one mode. It is a JSON file named after both;
what it says inside counts.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from lengthwise_engine.accuracy.comparison import TextAccuracy
from lengthwise_engine.errors import AccuracyError
from lengthwise_engine.kv.layout import KVDtype
from lengthwise_engine.models.weights_digest import cache_folder

MAX_BYTES: Final = 1 << 20
"""A record of a hundred texts has 30 kB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyBounds:
    """What a mode may cost on any text. `most_kl` is of the mean, in nats per token,
    `most_perplexity_increase` a share of the full model's perplexity."""

    most_kl: float
    most_perplexity_increase: float


DEFAULT_BOUNDS: Final = {
    "none": AccuracyBounds(most_kl=0.01, most_perplexity_increase=0.01),
    "int8": AccuracyBounds(most_kl=0.01, most_perplexity_increase=0.01),
    "fp8": AccuracyBounds(most_kl=0.03, most_perplexity_increase=0.03),
    "int4": AccuracyBounds(most_kl=0.15, most_perplexity_increase=0.10),
}
"""By what projections are rounded to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyRecord:
    """`mode` as `mode_name` has it; `full_dtype` is what the full model was computed in, `context`
    the tokens of a piece, `date` a day in ISO 8601."""

    model: str
    fingerprint: str
    mode: str
    full_dtype: str
    context: int
    date: str
    bounds: AccuracyBounds
    texts: tuple[TextAccuracy, ...]

    def failures(self) -> list[str]:
        """What is beyond the bounds, in words. What is no number is."""
        return [failure for text in self.texts for failure in self._failures_of(text)]

    def _failures_of(self, text: TextAccuracy) -> Iterator[str]:
        bounds = self.bounds
        if not text.kl_mean <= bounds.most_kl:
            yield f"{text.text}: a mean KL of {text.kl_mean:.4f} nats, at most {bounds.most_kl:g}"
        if not text.perplexity_increase <= bounds.most_perplexity_increase:
            yield (
                f"{text.text}: a perplexity {text.perplexity_increase:+.1%}, at most"
                f" {bounds.most_perplexity_increase:+.1%}"
            )

    def write(self, folder: Path) -> Path:
        """Makes the folder where there is none, and replaces an older record. Errors: OSError,
        AccuracyError for what is no number."""
        numbers = [n for t in self.texts for n in (t.perplexity, t.full_perplexity, t.kl_mean)]
        if not all(map(math.isfinite, numbers)):
            raise AccuracyError(
                f"{self.model} in {self.mode} expects no numbers, or the text not at all: got"
                f" perplexities and KL of {numbers}; nothing is recorded"
            )
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _file_name(self.fingerprint, self.mode)
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
        part.replace(path)
        return path


def mode_name(rounded_to: str, dtype: str, kv_dtype: KVDtype) -> str:
    """How a model is computed: what its projections are rounded to, the type of all else, and that
    of its cache where it is another."""
    return f"{rounded_to or 'full'}-{dtype}{'' if kv_dtype == 'auto' else f'-kv_{kv_dtype}'}"


def records_folder() -> Path:
    """Where records lie unless another folder is named."""
    return cache_folder() / "evaluations"


def find_record(folder: Path, fingerprint: str, mode: str) -> AccuracyRecord | None:
    """None where there is none of this checkpoint and mode. Errors: AccuracyError for a file that
    is not what its name says."""
    path = folder / _file_name(fingerprint, mode)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AccuracyError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        record = msgspec.json.decode(data, type=AccuracyRecord)
    except msgspec.MsgspecError as error:
        raise AccuracyError(f"{path}: no record of an evaluation: {error}") from error
    if (record.fingerprint, record.mode) != (fingerprint, mode):
        raise AccuracyError(
            f"{path}: of {record.fingerprint} in {record.mode}, expected {fingerprint} in {mode}"
        )
    return record


def _file_name(fingerprint: str, mode: str) -> str:
    return f"{fingerprint}-{mode}.json"
