"""A request before it arrives, and what follows it."""

from collections.abc import Iterator
from dataclasses import dataclass

from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.workload.text import Text, TextSpan

MAX_TOKENS = 1 << 24
"""Of a prompt or an output; beyond, a trace is taken for malformed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivingRequest:
    """Policies know `max_new_tokens`, its limit, and not `output_tokens`, at which it will end.

    `text` is that of the prompt, whose last span goes on with what is generated. `follow_up` comes
    `think_seconds` (its own) after this one has ended: the next turn of a conversation.
    """

    arrived_at: float  # seconds; of a follow-up: not before
    prompt_tokens: int
    output_tokens: int
    max_new_tokens: int
    text: Text
    tenant: str = ""
    priority: int = 0
    think_seconds: float = 0.0
    follow_up: "ArrivingRequest | None" = None

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens"):
            count = getattr(self, name)
            if not 1 <= count <= MAX_TOKENS:
                raise SimulationError(f"{name}: got {count}, expected 1 to {MAX_TOKENS}")
        if self.max_new_tokens < self.output_tokens:
            raise SimulationError(
                f"max_new_tokens: got {self.max_new_tokens}, fewer than the"
                f" {self.output_tokens} that come"
            )


def single_request(
    arrived_at: float, prompt_tokens: int, output_tokens: int, *, key: int
) -> ArrivingRequest:
    """Like no other; `key`, of its text, is to be its own."""
    return ArrivingRequest(
        arrived_at=arrived_at,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        max_new_tokens=output_tokens,
        text=(TextSpan(key, prompt_tokens),),
    )


def turns(request: ArrivingRequest) -> Iterator[ArrivingRequest]:
    """Of the conversation that begins with it."""
    turn: ArrivingRequest | None = request
    while turn is not None:
        yield turn
        turn = turn.follow_up
