"""What others have published of the steps of their engines."""

import csv
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from lengthwise_simulator.cost.profile import Chunk
from lengthwise_simulator.errors import SimulationError

Coefficients = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistServeCosts:
    """DistServe's fits (OSDI'24; milliseconds): a prefill of l tokens takes A + B l + C l^2, a step
    of b requests with c tokens of context A + B c + C b, with other coefficients for large b."""

    prefill: Coefficients
    decode: Coefficients
    decode_large: Coefficients
    large: int = 95

    def step_seconds(self, chunks: Sequence[Chunk], requests: int, context: int) -> float:
        constant = milliseconds = 0.0
        if requests:
            a, b, c = self.decode if requests < self.large else self.decode_large
            constant, milliseconds = a, b * context + c * requests
        if chunks:
            a, b, c = self.prefill
            constant = max(a, constant)
            milliseconds += sum(b * new + c * new * (new + 2 * past) for new, past in chunks)
        return (constant + milliseconds) / 1e3


OPT_13B_A100: Final[Mapping[int, DistServeCosts]] = {
    1: DistServeCosts(
        prefill=(18.10, 0.1019, 7.12e-6),
        decode=(19.93, 6.27e-4, 0.0385),
        decode_large=(7.17, 5.80e-4, 0.158),
    ),
    2: DistServeCosts(
        prefill=(14.74, 0.0686, 2.45e-6),
        decode=(13.29, 3.41e-4, 0.0630),
        decode_large=(10.64, 3.12e-4, 0.0856),
    ),
    4: DistServeCosts(
        prefill=(12.06, 0.0381, 5.23e-7),
        decode=(10.26, 1.88e-4, 0.0327),
        decode_large=(10.48, 1.71e-4, 0.0457),
    ),
}
"""By ranks, on A100-80GB: LLMServe/DistServe, Apache-2.0, rounded."""

OPT_13B_KV_BYTES: Final = 2 * 40 * 5120 * 2
OPT_13B_WEIGHT_BYTES: Final = 25.7e9


def opt_13b_kv_tokens(ranks: int) -> int:
    """On A100-80GB, of which 0.9 are taken."""
    return int((ranks * 0.9 * 80e9 - OPT_13B_WEIGHT_BYTES) // OPT_13B_KV_BYTES)


MIXED_FACTOR: Final = 1.1
"""Of a step with prompts and decodes, by Splitwise's simulator."""


class SplitwiseCosts:
    """Splitwise's measurements (splitwise_perf_model.csv, MIT), interpolated: prompts by their
    tokens in all, decodes by how many there are; beyond the last, as between the last two."""

    def __init__(
        self, path: Path, model: str, hardware: str, ranks: int, *, as_simulated: bool = False
    ) -> None:
        """`as_simulated`: as its own simulator reads the table, where a decode is one token beside
        batches of whole prompts, so that 64 take as long as one. Errors: SimulationError, OSError.
        """
        prompts: dict[int, list[float]] = defaultdict(list)
        tokens: dict[int, list[float]] = defaultdict(list)
        found: set[str] = set()
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            try:
                for row in reader:
                    on = int(row["tensor_parallel"])
                    found.add(f"{row['model']} on {on} {row['hardware']}")
                    if (row["model"], row["hardware"], on) != (model, hardware, ranks):
                        continue
                    batch = int(row["batch_size"])
                    size = batch * int(row["prompt_size"])
                    prompts[size].append(float(row["prompt_time"]))
                    tokens[size if as_simulated else batch].append(float(row["token_time"]))
            except (KeyError, TypeError, ValueError) as error:
                raise SimulationError(
                    f"{path}, line {reader.line_num}: {error!r}; expected the columns model,"
                    " hardware, prompt_size, batch_size, prompt_time, token_time, tensor_parallel"
                ) from error
        if not prompts:
            raise SimulationError(
                f"{path}: got {model} on {ranks} {hardware}, expected one of"
                f" {', '.join(sorted(found))}"
            )
        self._prompts = sorted((size, median(times) / 1e3) for size, times in prompts.items())
        self._tokens = sorted((size, median(times) / 1e3) for size, times in tokens.items())

    def step_seconds(self, chunks: Sequence[Chunk], requests: int, context: int) -> float:
        seconds = 0.0
        if chunks:
            seconds += _interpolated(self._prompts, sum(new for new, _ in chunks))
        if requests:
            seconds = max(seconds, _interpolated(self._tokens, requests))
        return seconds * MIXED_FACTOR if chunks and requests else seconds


def _interpolated(points: Sequence[tuple[int, float]], at: int) -> float:
    """Before the first point it is the first's: a step costs that anyway."""
    if at <= points[0][0] or len(points) == 1:
        return points[0][1]
    index = min(max(bisect_left(points, (at, 0.0)), 1), len(points) - 1)
    (left, low), (right, high) = points[index - 1], points[index]
    return low + (high - low) * (at - left) / (right - left)
