"""The values that a field accepts, and the message for a value that it refuses: «field: got …,
expected …». The SDK checks Python values with them, the router what came over the wire."""

import math
import numbers
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lengthwise_wire.errors import InvalidRequest

UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1


class Range(Protocol):
    """The accepted values of a field."""

    def check(self, field: str, value: object) -> Any:
        """The value as the wire takes it. Errors: InvalidRequest naming the field."""


@dataclass(frozen=True, slots=True)
class Real:
    """low <= value <= high, finite; with `above`, low < value."""

    low: float
    high: float
    above: bool = False

    def check(self, field: str, value: object) -> float:
        number = math.nan
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
        too_low = number <= self.low if self.above else number < self.low
        if not math.isfinite(number) or too_low or number > self.high:
            shown = shortest(value) if isinstance(value, float) else value
            raise InvalidRequest(f"{field}: got {shown!r}, expected {self}")
        return number

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"a finite number {'above' if self.above else 'of at least'} {self.low:g}"
        return f"a number in {'(' if self.above else '['}{self.low:g}, {self.high:g}]"


@dataclass(frozen=True, slots=True)
class Whole:
    """low <= value <= high."""

    low: int
    high: int

    def check(self, field: str, value: object) -> int:
        try:
            number = operator.index(value)  # type: ignore[arg-type]  # that is the question
        except TypeError:
            number = None
        if number is None or isinstance(value, bool) or not self.low <= number <= self.high:
            raise InvalidRequest(
                f"{field}: got {value!r}, expected an integer in [{self.low}, {self.high}]"
            )
        return number


TOKEN_ID = Whole(0, UINT32_MAX)


@dataclass(frozen=True, slots=True)
class PerToken:
    """A number for each of some token ids, at most `most` of them."""

    numbers: Real
    most: int

    def check(self, field: str, value: object) -> dict[int, float]:
        if not isinstance(value, Mapping):
            raise InvalidRequest(
                f"{field}: got {type(value).__name__}, expected a mapping of token ids to numbers"
            )
        if len(value) > self.most:
            raise InvalidRequest(f"{field}: got {len(value)} entries, expected at most {self.most}")
        return {
            TOKEN_ID.check(field, token_id): self.numbers.check(f"{field}[{token_id}]", number)
            for token_id, number in value.items()
        }


def shortest(value: float) -> float:
    """0.7 goes over the wire in single precision and comes out as 0.699999988: 0.7 again."""
    return float(f"{value:.7g}")
