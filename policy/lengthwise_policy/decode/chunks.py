"""How many prompt tokens a decode step may compute beside the requests that decode.

Sarathi-Serve (OSDI'24): decodes first, the rest of a fixed token budget goes to chunks of prompts,
so that a prompt never stops the others for longer than a step of that budget takes. The budget is
right for one length of history only, so the cost model bounds the step as well: its predicted
seconds stay within the objective for time per output token, while anybody decodes.

The rule: a step never computes more tokens than its budget; a chunk that is not the last of its
sequence is whole blocks; the first in line gets one block at least, so that it gets on.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.decode.request import DecodeRequest
from lengthwise_policy.types import Chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRoom:
    """What the requests that decode leave of a step."""

    tokens: int
    seconds: float  # inf while nobody decodes

    def __str__(self) -> str:
        within = "" if math.isinf(self.seconds) else f" and {self.seconds * 1e3:.1f} ms"
        return f"room for {self.tokens} tokens{within}"


def plan_chunks(
    computing: Iterable[DecodeRequest], room: ChunkRoom, cost: CostModel, block_size: int
) -> tuple[Chunk, ...]:
    """Chunks of the first in line, as far as the room goes; nobody overtakes.

    Each goes on where the steps in flight leave its request.
    """
    chunks: list[Chunk] = []
    tokens, seconds = room.tokens, room.seconds
    for request in computing:
        missing = request.sequence_tokens - request.num_launched
        history = request.num_launched
        affordable = cost.tokens_within(seconds, history)
        if not chunks:
            affordable = max(affordable, block_size)
        num_tokens = int(min(missing, tokens, affordable))
        if num_tokens < missing:
            num_tokens -= num_tokens % block_size
        if num_tokens <= 0:
            break
        chunks.append(
            Chunk(
                request_id=request.request_id,
                start=history,
                num_tokens=num_tokens,
                is_last=num_tokens == missing,
            )
        )
        tokens -= num_tokens
        seconds -= cost.chunk_seconds(num_tokens, history)
        if num_tokens < missing:
            break
    return tuple(chunks)
