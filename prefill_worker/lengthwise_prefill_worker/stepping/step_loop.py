"""The prefill engine's step: drain the mailbox, plan a batch, run it, publish the results once.

Runs on the engine thread, which alone touches the scheduler, the blocks and the model.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lengthwise_engine.runner.base import ModelRunner, SequenceChunk
from lengthwise_engine.runner.sampler import SampledToken
from lengthwise_engine.transfer.base import Piece
from lengthwise_policy.cost.fit import CostFit, StepSample
from lengthwise_policy.errors import PolicyError
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.length_class import LENGTH_CLASSES, LengthClass
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import PromptChunk, RequestId
from lengthwise_prefill_worker.kv.pieces import LayerPieces, PieceReady, split_blocks
from lengthwise_prefill_worker.messages import Command, Computed, Outcome, PrefillWork
from lengthwise_prefill_worker.stepping.step_report import PrefillReport
from lengthwise_runtime.mailbox import Mailbox
from lengthwise_worker.adapters import number_of
from lengthwise_worker.messages import Release, RequestExpired, RequestRefused
from lengthwise_worker.snapshot import EngineSnapshot
from lengthwise_worker.step_loop import IDLE_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """When and why a request's first chunk ran."""

    at: float
    reason: str


class PrefillLoop:
    """See `lengthwise_worker.step_loop.StepLoop`."""

    def __init__(
        self,
        *,
        runner: ModelRunner,
        scheduler: PrefillScheduler,
        blocks: PrefixCache,
        mailbox: Mailbox[Command],
        publish: Callable[[PrefillReport], None],
        send: Callable[[Sequence[PieceReady]], None],
        layerwise_tokens: int,
        piece_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`publish` is called on the engine thread, once per turn that did anything; `send` during
        a step, with KV that will not change any more."""
        self._runner = runner
        self._scheduler = scheduler
        self._blocks = blocks
        self._mailbox = mailbox
        self._publish = publish
        self._send = send
        self._layerwise_tokens = layerwise_tokens
        self._piece_bytes = piece_bytes
        self._clock = clock
        self._fit = CostFit()
        self._works: dict[RequestId, PrefillWork] = {}
        self._starts: dict[RequestId, _Start] = {}
        self._prompt_tokens_total = 0
        self._step_ended_at: float | None = None
        self._idle_seconds = 0.0
        self.progress = 0
        self.snapshot = self._take_snapshot(running=0)

    def step(self) -> None:
        report = PrefillReport()
        commands = self._mailbox.drain(self._idle_seconds)
        for command in commands:
            self._obey(command, report)
        now = self._clock()
        report.outcomes.extend(self._expire(now))
        batch = report.batch = self._scheduler.next_batch(
            now, self._fit.model, self._fit.short_tokens
        )
        if batch is not None:
            if self._step_ended_at is not None:
                report.gap_seconds = now - self._step_ended_at
            report.tokens = self._tokens_by_length(batch)
            report.outcomes.extend(self._run(batch, now))
        self._idle_seconds = 0.0 if batch is not None else self._until_wake(now)
        self._step_ended_at = None
        if batch is not None:
            self._step_ended_at = self._clock()
            report.busy_seconds = self._step_ended_at - now
        report.block_events = self._blocks.take_events()
        self.snapshot = self._take_snapshot(running=0)
        if commands or report.outcomes or batch is not None or report.block_events is not None:
            self._publish(report)

    def _until_wake(self, now: float) -> float:
        wake_at = self._scheduler.wake_at
        return IDLE_SECONDS if wake_at is None else min(max(wake_at - now, 0.0), IDLE_SECONDS)

    def _obey(self, command: Command, report: PrefillReport) -> None:
        if isinstance(command, Release):
            self._forget(command.request_id)
            return
        job = command.job
        try:
            self._scheduler.enqueue(job)
        except PolicyError as error:
            report.outcomes.append(RequestRefused(request_id=job.request_id, error=error))
        else:
            self._works[job.request_id] = command

    def _forget(self, request_id: RequestId) -> None:
        self._scheduler.release(request_id)
        self._works.pop(request_id, None)
        self._starts.pop(request_id, None)

    def _expire(self, now: float) -> list[Outcome]:
        """Reports requests past their deadline; the service releases them."""
        return [
            RequestExpired(request_id=request_id)
            for request_id in self._scheduler.expired(now)
            if request_id in self._works
        ]

    def _run(self, batch: PrefillBatch, now: float) -> list[Outcome]:
        started = [chunk for chunk in batch.chunks if chunk.request_id not in self._starts]
        for chunk in started:
            self._starts[chunk.request_id] = _Start(at=now, reason=batch.reason)
        self.snapshot = self._take_snapshot(running=len(batch.chunks))
        self._hand_out([piece for chunk in started for piece in self._cached_pieces(chunk)])
        layerwise = LayerPieces(
            self._pieces_of(batch, layerwise=True),
            layout=self._runner.layout,
            piece_bytes=self._piece_bytes,
        )

        def on_layer(layer: int) -> None:
            self.progress += 1
            self._hand_out(layerwise.after_layer(layer))

        began_at = self._clock()
        sampled = self._runner.run([self._sequence_chunk(c) for c in batch.chunks], on_layer)
        done_at = self._clock()
        self.progress += 1
        self._prompt_tokens_total += batch.num_tokens
        self._fit.observe(StepSample.of(batch.chunks, done_at - began_at))
        self._hand_out(self._pieces_of(batch, layerwise=False))
        return self._complete(batch, sampled, done_at)

    def _tokens_by_length(self, batch: PrefillBatch) -> Mapping[LengthClass, int]:
        if batch.length != "mixed":
            return {batch.length: batch.num_tokens}
        tokens = dict.fromkeys(LENGTH_CLASSES, 0)
        for chunk in batch.chunks:
            tokens[self._scheduler.length_class(chunk.request_id)] += chunk.num_tokens
        return tokens

    def _complete(
        self, batch: PrefillBatch, sampled: Sequence[SampledToken | None], done_at: float
    ) -> list[Outcome]:
        # A request released while the batch ran is not in `computed`: its token is dropped.
        complete = set(self._scheduler.computed(batch))
        outcomes: list[Outcome] = []
        for chunk, token in zip(batch.chunks, sampled, strict=True):
            request_id = chunk.request_id
            if token is None or request_id not in complete:
                continue
            start = self._starts[request_id]
            outcomes.append(
                Computed(
                    request_id=request_id,
                    token=token,
                    queue_seconds=start.at - self._works[request_id].job.arrived_at,
                    prefill_seconds=done_at - start.at,
                    num_cached_tokens=self._scheduler.num_cached_tokens(request_id),
                    length=self._scheduler.length_class(request_id),
                    reason=start.reason,
                )
            )
        return outcomes

    def _hand_out(self, pieces: Sequence[PieceReady]) -> None:
        if pieces:
            self._send(pieces)

    def _sequence_chunk(self, chunk: PromptChunk) -> SequenceChunk:
        work = self._works[chunk.request_id]
        sampling = work.sampling
        return SequenceChunk(
            token_ids=sampling.token_ids[chunk.start : chunk.start + chunk.num_tokens],
            start=chunk.start,
            block_ids=self._scheduler.block_ids(chunk.request_id),
            sampling=sampling if chunk.is_last else None,
            adapter=number_of(work.adapter),
        )

    def _cached_pieces(self, chunk: PromptChunk) -> list[PieceReady]:
        """What lies before a request's first chunk and can leave at once."""
        piece = self._piece_of(chunk.request_id, 0, chunk.start)
        if piece is None:
            return []
        return split_blocks(piece, layout=self._runner.layout, piece_bytes=self._piece_bytes)

    def _pieces_of(self, batch: PrefillBatch, *, layerwise: bool) -> list[PieceReady]:
        """All layers of the blocks that the batch fills, of those that are pushed in this way."""
        pieces = []
        for chunk in batch.chunks:
            num_tokens = self._works[chunk.request_id].job.num_tokens
            residual = num_tokens - self._scheduler.num_cached_tokens(chunk.request_id)
            if (residual > self._layerwise_tokens) is not layerwise:
                continue
            piece = self._piece_of(chunk.request_id, chunk.start, chunk.start + chunk.num_tokens)
            if piece is not None:
                pieces.append(piece)
        return pieces

    def _piece_of(self, request_id: RequestId, start: int, end: int) -> PieceReady | None:
        """All layers of the blocks of tokens [start, end) that the decode worker lacks."""
        layout = self._runner.layout
        sent_from = self._works[request_id].sent_from
        if sent_from is None or sent_from >= end:
            return None
        first = max(start, sent_from) // layout.block_size
        blocks = self._scheduler.block_ids(request_id)[first : -(-end // layout.block_size)]
        return PieceReady(
            request_id=request_id,
            piece=Piece(first_layer=0, num_layers=layout.num_layers, block_ids=blocks),
            first_block=first,
        )

    def _take_snapshot(self, running: int) -> EngineSnapshot:
        lengths = [(name, self._scheduler.queue_length(name)) for name in LENGTH_CLASSES]
        return EngineSnapshot(
            blocks_free=self._blocks.num_free,
            blocks_cached=self._blocks.num_cached,
            running_requests=running,
            queues=tuple((name, length.requests, length.tokens) for name, length in lengths),
            prompt_tokens_total=self._prompt_tokens_total,
            cost=self._fit.measured,
            cost_samples=self._fit.num_samples,
            short_tokens=self._fit.short_tokens,
        )
