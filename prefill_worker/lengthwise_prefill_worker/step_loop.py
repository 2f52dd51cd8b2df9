"""The prefill engine's step: drain the mailbox, plan a batch, run it, hand the results over once.

Runs on the engine thread, which alone touches the scheduler and the model. What the event loop
needs leaves through `Outputs`, whose methods must be safe to call from this thread.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lengthwise_engine.runner import ModelRunner, SequenceChunk
from lengthwise_engine.sampler import SampledToken, SamplingState
from lengthwise_engine.transfer.base import Piece
from lengthwise_policy.blocks import BlockPool
from lengthwise_policy.errors import PolicyError
from lengthwise_policy.lengths import LENGTH_CLASSES
from lengthwise_policy.prefill import PrefillJob, PrefillScheduler
from lengthwise_policy.types import Chunk, PrefillBatch, RequestId
from lengthwise_prefill_worker.pieces import LayerPieces, PieceReady
from lengthwise_runtime.mailbox import Mailbox

IDLE_SECONDS = 0.1
"""How long an idle engine waits for a command before it looks at deadlines again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillWork:
    """A prompt as the engine needs it. `pushed`: its KV goes to a decode worker."""

    request_id: RequestId
    sampling: SamplingState
    arrived_at: float
    deadline_at: float
    pushed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Cancels a request or frees a computed one."""

    request_id: RequestId


Command = PrefillWork | Release


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """A prompt is complete; this is its first token."""

    request_id: RequestId
    token: SampledToken
    queue_seconds: float
    prefill_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    request_id: RequestId
    error: PolicyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    request_id: RequestId


Outcome = Computed | Refused | Expired


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the status tells of the engine."""

    blocks_free: int
    running_requests: int
    queues: tuple[tuple[str, int, int], ...]
    prompt_tokens_total: int


class Outputs(Protocol):
    """Where results go; called on the engine thread."""

    def pieces(self, pieces: Sequence[PieceReady]) -> None: ...

    def outcomes(self, outcomes: Sequence[Outcome], gap_seconds: float | None) -> None: ...


class PrefillLoop:
    """Owns scheduler and runner. `step` is what the engine thread repeats."""

    def __init__(
        self,
        *,
        runner: ModelRunner,
        scheduler: PrefillScheduler,
        pool: BlockPool,
        mailbox: Mailbox[Command],
        outputs: Outputs,
        layerwise_tokens: int,
        piece_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._pool = pool
        self._mailbox = mailbox
        self._outputs = outputs
        self._layerwise_tokens = layerwise_tokens
        self._piece_bytes = piece_bytes
        self._clock = clock
        self._works: dict[RequestId, PrefillWork] = {}
        self._started_at: dict[RequestId, float] = {}
        self._prompt_tokens_total = 0
        self._step_ended_at: float | None = None
        self._waiting = False
        self.progress = 0
        """Grows with every layer of every step: still while requests run means stuck."""
        self.snapshot = self._take_snapshot(running=0)

    def step(self) -> None:
        """One turn; returns within the time of one batch, or IDLE_SECONDS when there is none."""
        commands = self._mailbox.drain(IDLE_SECONDS if self._waiting else 0.0)
        outcomes = self._obey(commands)
        now = self._clock()
        outcomes.extend(self._expire(now))
        batch = self._scheduler.next_batch(now)
        gap = None
        if batch is not None:
            if self._step_ended_at is not None:
                gap = now - self._step_ended_at
            outcomes.extend(self._run(batch, now))
        self._waiting = batch is None
        self._step_ended_at = self._clock() if batch is not None else None
        self.snapshot = self._take_snapshot(running=0)
        if commands or outcomes or batch is not None:
            self._outputs.outcomes(outcomes, gap)

    def _obey(self, commands: Sequence[Command]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for command in commands:
            if isinstance(command, Release):
                self._forget(command.request_id)
                continue
            try:
                self._scheduler.enqueue(
                    PrefillJob(
                        request_id=command.request_id,
                        num_tokens=len(command.sampling.token_ids),
                        arrived_at=command.arrived_at,
                        deadline_at=command.deadline_at,
                    )
                )
            except PolicyError as error:
                outcomes.append(Refused(request_id=command.request_id, error=error))
            else:
                self._works[command.request_id] = command
        return outcomes

    def _forget(self, request_id: RequestId) -> None:
        self._scheduler.release(request_id)
        self._works.pop(request_id, None)
        self._started_at.pop(request_id, None)

    def _expire(self, now: float) -> list[Outcome]:
        """Reports requests past their deadline once; whoever pushes them releases them."""
        return [
            Expired(request_id=request_id)
            for request_id in self._scheduler.expired(now)
            if request_id in self._works
        ]

    def _run(self, batch: PrefillBatch, now: float) -> list[Outcome]:
        for chunk in batch.chunks:
            self._started_at.setdefault(chunk.request_id, now)
        self.snapshot = self._take_snapshot(running=len(batch.chunks))
        layerwise = LayerPieces(
            [self._piece_of(c) for c in batch.chunks if self._is_pushed(c, layerwise=True)],
            layout=self._runner.layout,
            piece_bytes=self._piece_bytes,
        )

        def on_layer(layer: int) -> None:
            self.progress += 1
            ready = layerwise.after_layer(layer)
            if ready:
                self._outputs.pieces(ready)

        sampled = self._runner.run([self._sequence_chunk(c) for c in batch.chunks], on_layer)
        self.progress += 1
        self._prompt_tokens_total += batch.num_tokens
        packed = [self._piece_of(c) for c in batch.chunks if self._is_pushed(c, layerwise=False)]
        if packed:
            self._outputs.pieces(packed)
        done_at = self._clock()
        # A request released while the batch ran is not in `computed`: nobody waits for its token.
        complete = set(self._scheduler.computed(batch))
        return [
            Computed(
                request_id=chunk.request_id,
                token=token,
                queue_seconds=self._queue_seconds(chunk.request_id),
                prefill_seconds=done_at - self._started_at[chunk.request_id],
            )
            for chunk, token in zip(batch.chunks, sampled, strict=True)
            if token is not None and chunk.request_id in complete
        ]

    def _queue_seconds(self, request_id: RequestId) -> float:
        return self._started_at[request_id] - self._works[request_id].arrived_at

    def _is_pushed(self, chunk: Chunk, *, layerwise: bool) -> bool:
        work = self._works[chunk.request_id]
        is_layerwise = len(work.sampling.token_ids) > self._layerwise_tokens
        return work.pushed and is_layerwise is layerwise

    def _sequence_chunk(self, chunk: Chunk) -> SequenceChunk:
        sampling = self._works[chunk.request_id].sampling
        return SequenceChunk(
            token_ids=sampling.token_ids[chunk.start : chunk.start + chunk.num_tokens],
            start=chunk.start,
            block_ids=self._scheduler.block_ids(chunk.request_id),
            sampling=sampling if chunk.is_last else None,
        )

    def _piece_of(self, chunk: Chunk) -> PieceReady:
        """All layers of the blocks that this chunk fills."""
        layout = self._runner.layout
        first = chunk.start // layout.block_size
        end = -(-(chunk.start + chunk.num_tokens) // layout.block_size)
        blocks = self._scheduler.block_ids(chunk.request_id)[first:end]
        return PieceReady(
            request_id=chunk.request_id,
            piece=Piece(first_layer=0, num_layers=layout.num_layers, block_ids=blocks),
            first_block=first,
        )

    def _take_snapshot(self, running: int) -> Snapshot:
        lengths = [(name, self._scheduler.queue_length(name)) for name in LENGTH_CLASSES]
        return Snapshot(
            blocks_free=self._pool.num_free,
            running_requests=running,
            queues=tuple((name, length.requests, length.tokens) for name, length in lengths),
            prompt_tokens_total=self._prompt_tokens_total,
        )
