"""What rank 0 sends the other ranks: adapters, layer by layer, and steps as 32-bit integers.

Of a step no more than they need to compute it: they sample nothing, so they get no histories and no
sampling parameters, and of each block table only the part that the step reads.
"""

import socket
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState

_HEAD: Final = struct.Struct("=II")
"""Of a message: its kind, and how many bytes follow."""
_STEP, _ADAPTER = 0, 1
_PLACE: Final = struct.Struct("=II")
"""Of a layer of an adapter: its number and its layer."""
_HEADER: Final = 6  # of a chunk, see `pack_step`
_NOTHING: Final = -1
_GREEDY: Final = SamplingParameters(temperature=0.0)
_DRAWN: Final = SamplingParameters(temperature=1.0)
_SAMPLINGS: Final = (None, _GREEDY, _DRAWN)
"""Which graph a step is replayed from depends on whether all rows take the best logit."""


@dataclass(frozen=True, slots=True)
class AdapterLayer:
    """What `AdapterStack.store` takes; `data` are the bytes of its numbers."""

    number: int
    layer: int
    data: torch.Tensor


def pack_adapter(number: int, layer: int, numbers: torch.Tensor) -> bytes:
    """A message of a layer of an adapter."""
    data = numbers.view(torch.uint8).numpy().tobytes()
    return _HEAD.pack(_ADAPTER, _PLACE.size + len(data)) + _PLACE.pack(number, layer) + data


def pack_step(chunks: Sequence[SequenceChunk], block_size: int) -> bytes:
    """A message of a step."""
    numbers = array("i")
    for chunk in chunks:
        num_blocks = -(-chunk.end // block_size)
        follows = _NOTHING if chunk.follows is None else chunk.follows
        sampling = None if chunk.sampling is None else chunk.sampling.sampling
        kind = 0 if sampling is None else 1 if sampling.is_argmax else 2
        adapter = _NOTHING if chunk.adapter is None else chunk.adapter
        numbers.extend((chunk.start, follows, kind, adapter, len(chunk.token_ids), num_blocks))
        numbers.extend(chunk.token_ids)
        numbers.extend(chunk.block_ids[:num_blocks])
    body = numbers.tobytes()
    return _HEAD.pack(_STEP, len(body)) + body


def receive(connection: socket.socket) -> list[SequenceChunk] | AdapterLayer | None:
    """The next step's chunks, or layer; None once the other end has hung up."""
    try:
        kind, num_bytes = _HEAD.unpack(_receive_exactly(connection, _HEAD.size))
        body = _receive_exactly(connection, num_bytes)
    except (ConnectionResetError, EOFError):
        return None
    if kind == _STEP:
        return _unpack(body)
    number, layer = _PLACE.unpack_from(body)
    data = torch.frombuffer(body, dtype=torch.uint8, offset=_PLACE.size)
    return AdapterLayer(number, layer, data)


def _receive_exactly(connection: socket.socket, num_bytes: int) -> bytearray:
    """Raises EOFError. A signal may cut a read short, also with MSG_WAITALL."""
    data = bytearray()
    while len(data) < num_bytes:
        part = connection.recv(num_bytes - len(data), socket.MSG_WAITALL)
        if not part:
            raise EOFError
        data += part
    return data


def _unpack(body: bytes | bytearray) -> list[SequenceChunk]:
    numbers = array("i", bytes(body))
    chunks, at = [], 0
    while at < len(numbers):
        start, follows, kind, adapter, num_tokens, num_blocks = numbers[at : at + _HEADER]
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
                adapter=None if adapter == _NOTHING else adapter,
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
