"""What rank 0 sends the other ranks of a step: what they need to compute it, as 32-bit integers.

No more than that: they sample nothing, so they get no histories and no sampling
parameters, and of each block table only the part that the step reads.
"""

import socket
import struct
from array import array
from collections.abc import Sequence
from typing import Final

from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState

_LENGTH: Final = struct.Struct("=I")
_HEADER: Final = 5  # of a chunk, see `pack_step`
_NOTHING: Final = -1
_GREEDY: Final = SamplingParameters(temperature=0.0)
_DRAWN: Final = SamplingParameters(temperature=1.0)
_SAMPLINGS: Final = (None, _GREEDY, _DRAWN)
"""Which graph a step is replayed from depends on whether all rows take the best logit."""


def pack_step(chunks: Sequence[SequenceChunk], block_size: int) -> bytes:
    """A message, behind its length."""
    numbers = array("i")
    for chunk in chunks:
        num_blocks = -(-chunk.end // block_size)
        follows = _NOTHING if chunk.follows is None else chunk.follows
        sampling = None if chunk.sampling is None else chunk.sampling.sampling
        kind = 0 if sampling is None else 1 if sampling.is_argmax else 2
        numbers.extend((chunk.start, follows, kind, len(chunk.token_ids), num_blocks))
        numbers.extend(chunk.token_ids)
        numbers.extend(chunk.block_ids[:num_blocks])
    body = numbers.tobytes()
    return _LENGTH.pack(len(body)) + body


def receive_step(connection: socket.socket) -> list[SequenceChunk] | None:
    """The next step's chunks; None once the other end has hung up."""
    try:
        (num_bytes,) = _LENGTH.unpack(_receive_exactly(connection, _LENGTH.size))
        return _unpack(_receive_exactly(connection, num_bytes))
    except (ConnectionResetError, EOFError):
        return None


def _receive_exactly(connection: socket.socket, num_bytes: int) -> bytes:
    """Raises EOFError. A signal may cut a read short, also with MSG_WAITALL."""
    data = bytearray()
    while len(data) < num_bytes:
        part = connection.recv(num_bytes - len(data), socket.MSG_WAITALL)
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def _unpack(body: bytes) -> list[SequenceChunk]:
    numbers = array("i", body)
    chunks, at = [], 0
    while at < len(numbers):
        start, follows, kind, num_tokens, num_blocks = numbers[at : at + _HEADER]
        tokens = at + _HEADER
        blocks = tokens + num_tokens
        at = blocks + num_blocks
        known = start + num_tokens if follows == _NOTHING else start
        chunks.append(
            SequenceChunk(
                token_ids=numbers[tokens:blocks],
                start=start,
                block_ids=numbers[blocks:at],
                sampling=_sampled_elsewhere(_SAMPLINGS[kind], known),
                follows=None if follows == _NOTHING else follows,
            )
        )
    return chunks


def _sampled_elsewhere(
    sampling: SamplingParameters | None, num_tokens: int
) -> SamplingState | None:
    """Asks for logits; what this rank samples from its share of them is of no use."""
    if sampling is None:
        return None
    return SamplingState(
        sampling=sampling, token_ids=range(num_tokens), num_prompt_tokens=num_tokens
    )
