"""The prefill engine's step: drain the mailbox, plan a batch, launch it, publish results once.

Where the runner runs ahead, the results are those of the batch before. The next batch is planned as
late as it can be without the device having to wait for it: for that long before the end of the one
before as planning and launching take. So prompts that arrive meanwhile wait no longer. Elsewhere a
batch has ended when it was launched, and its own results are published.

Runs on the engine thread, which alone touches the scheduler, the blocks and the model.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from math import inf

from lengthwise_engine.runner.base import ModelRunner, SequenceChunk, SettledStep
from lengthwise_engine.runner.sampler import SampledToken
from lengthwise_policy.cost.fit import LEAST_SCALED_BY, CostFit, StepSample
from lengthwise_policy.errors import PolicyError
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_policy.length_class import LENGTH_CLASSES, LengthClass
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_policy.prefill.scheduler import PrefillScheduler
from lengthwise_policy.types import PromptChunk, RequestId
from lengthwise_prefill_worker.kv.batch_pieces import BatchPieces
from lengthwise_prefill_worker.kv.pieces import PieceReady
from lengthwise_prefill_worker.messages import Command, Computed, Outcome, PrefillWork
from lengthwise_prefill_worker.stepping.launched import FirstChunk, LaunchedBatch
from lengthwise_prefill_worker.stepping.step_report import PrefillReport
from lengthwise_runtime.mailbox import Mailbox
from lengthwise_worker.adapters.lease import number_of
from lengthwise_worker.messages import Release, RequestExpired, RequestRefused
from lengthwise_worker.snapshot import EngineSnapshot
from lengthwise_worker.step_loop import IDLE_SECONDS, StepClock

POLL_SECONDS = 0.0005
"""How often a running batch is looked at: its layers are announced then."""

MOST_AHEAD_SECONDS = 0.01
"""No batch is planned earlier before the end of another: launching 64 layers takes a host about as
long (benchmarks/data/launches.csv)."""


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
        self._clock = clock
        self._fit = CostFit()
        self._works: dict[RequestId, PrefillWork] = {}
        self._pieces = BatchPieces(
            scheduler,
            self._works,
            layout=runner.layout,
            layerwise_tokens=layerwise_tokens,
            piece_bytes=piece_bytes,
        )
        self._starts: dict[RequestId, FirstChunk] = {}
        self._in_flight: LaunchedBatch | None = None
        self._step_clock = StepClock()
        self._launch_seconds = 0.0  # what planning and launching the last batch took
        self._prompt_tokens_total = 0
        self._ended_at = float("-inf")  # the last batch
        self._is_warm = False  # it has just ended
        self._idle_seconds = 0.0
        self.progress = 0
        self.snapshot = self._take_snapshot()

    def step(self) -> None:
        report = PrefillReport()
        before, self._in_flight = self._in_flight, None
        if before is not None:
            self._await(before)
            # What is planned from now on is computed after it.
            self._scheduler.computed(before.batch)
        launched = None
        commands: Sequence[Command] = ()
        if before is None or not before.pending.is_ready:  # tokens that are there do not wait
            commands = self._mailbox.drain(self._idle_seconds)
            for command in commands:
                self._obey(command, report)
            launched = self._plan(before, report)
        ended, self._in_flight = (before, launched) if self._runner.runs_ahead else (launched, None)
        if ended is not None:
            self._settle(ended, report)
        self._is_warm = ended is not None
        is_busy = ended is not None or launched is not None
        self._idle_seconds = 0.0 if is_busy else self._until_wake(self._clock())
        report.block_events = self._blocks.take_events()
        self.snapshot = self._take_snapshot()
        if commands or report.outcomes or is_busy or report.block_events is not None:
            self._publish(report)

    def close(self) -> None:
        """Waits until nothing writes to the cache any more; `step` must not be called again."""
        if self._in_flight is not None:
            self._in_flight.pending.tokens()

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

    def _plan(self, before: LaunchedBatch | None, report: PrefillReport) -> LaunchedBatch | None:
        """Launches the next batch, if there is one; `before` is still running."""
        now = self._clock()
        report.outcomes.extend(self._expire(now))
        batch = self._scheduler.next_batch(now, self._fit.model, self._fit.short_tokens)
        if batch is None:
            return None
        if before is not None:
            report.gap_seconds = 0.0
        elif self._is_warm:
            report.gap_seconds = now - self._ended_at
        started = [chunk for chunk in batch.chunks if chunk.request_id not in self._starts]
        for chunk in started:
            self._starts[chunk.request_id] = FirstChunk(at=now, reason=batch.reason)
        launched = LaunchedBatch(
            batch=batch,
            planned_at=now,
            predicted_seconds=self._predicted_seconds(batch),
            num_layers=self._runner.layout.num_layers,
            tokens=self._tokens_by_length(batch),
            cached=[piece for chunk in started for piece in self._pieces.cached(chunk)],
            packed=self._pieces.packed(batch),
        )
        self.snapshot = self._take_snapshot(launched)
        if before is None:
            self._hand_out(launched.cached)
            launched.cached = ()
        self._launch(launched)
        return launched

    def _predicted_seconds(self, batch: PrefillBatch) -> float:
        if self._fit.num_samples < LEAST_SCALED_BY:  # the model is that of no worker yet
            return inf
        model = self._fit.model
        chunks = (model.chunk_seconds(chunk.num_tokens, chunk.start) for chunk in batch.chunks)
        return model.step_seconds + sum(chunks)

    def _launch(self, launched: LaunchedBatch) -> None:
        layerwise = self._pieces.layer_by_layer(launched.batch)

        def on_layer(layer: int) -> None:
            self.progress += 1
            launched.passed(layer, self._clock())
            self._hand_out(layerwise.after_layer(layer))

        chunks = [self._sequence_chunk(chunk) for chunk in launched.batch.chunks]
        launched.launched_at = self._clock()
        if self._runner.runs_ahead:
            launched.pending = self._runner.launch(chunks, on_layer)
        else:
            launched.pending = SettledStep(self._runner.run(chunks, on_layer))
        self._launch_seconds = self._clock() - launched.planned_at

    def _await(self, launched: LaunchedBatch) -> None:
        """Until the batch has ended, or only the next one's launch is left of its time."""
        # A layer that passed is seen later by up to a look, and so is the time to plan.
        ahead = min(self._launch_seconds + 2 * POLL_SECONDS, MOST_AHEAD_SECONDS)
        began_at = max(launched.launched_at, self._ended_at)
        was_running = False
        while not launched.pending.is_ready:
            was_running = True
            if self._clock() >= launched.ends_at(began_at) - ahead:
                return
            time.sleep(POLL_SECONDS)
        if was_running:
            launched.ended_at = self._clock()

    def _settle(self, ended: LaunchedBatch, report: PrefillReport) -> None:
        """Waits for the tokens of a batch, and reports what became of its requests."""
        was_seen = ended.ended_at is not None
        is_late = self._runner.runs_ahead and not was_seen and ended.pending.is_ready
        sampled = ended.pending.tokens()
        done_at = self._clock() if ended.ended_at is None else ended.ended_at
        seconds = self._step_clock.seconds(ended.launched_at, done_at, is_late=is_late)
        if seconds is not None:
            self._fit.observe(StepSample.of(ended.batch.chunks, seconds))
        self.progress += 1
        self._prompt_tokens_total += ended.batch.num_tokens
        self._hand_out(ended.packed)
        if self._in_flight is not None:
            # What is cached may have come with the batch that has just ended.
            self._hand_out(self._in_flight.cached)
        if not self._runner.runs_ahead:
            self._scheduler.computed(ended.batch)
        report.batch, report.tokens = ended.batch, ended.tokens
        report.outcomes.extend(self._outcomes(ended, sampled, done_at))
        report.busy_seconds = done_at - max(ended.planned_at, self._ended_at)
        self._ended_at = done_at

    def _tokens_by_length(self, batch: PrefillBatch) -> Mapping[LengthClass, int]:
        if batch.length != "mixed":
            return {batch.length: batch.num_tokens}
        tokens = dict.fromkeys(LENGTH_CLASSES, 0)
        for chunk in batch.chunks:
            tokens[self._scheduler.length_class(chunk.request_id)] += chunk.num_tokens
        return tokens

    def _outcomes(
        self, ended: LaunchedBatch, sampled: Sequence[SampledToken | None], done_at: float
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for chunk, token in zip(ended.batch.chunks, sampled, strict=True):
            request_id = chunk.request_id
            if token is None or request_id not in self._works:  # released meanwhile
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

    def _take_snapshot(self, launched: LaunchedBatch | None = None) -> EngineSnapshot:
        running = launched or self._in_flight
        lengths = [(name, self._scheduler.queue_length(name)) for name in LENGTH_CLASSES]
        return EngineSnapshot(
            blocks_free=self._blocks.num_free,
            blocks_cached=self._blocks.num_cached,
            running_requests=0 if running is None else len(running.batch.chunks),
            queues=tuple((name, length.requests, length.tokens) for name, length in lengths),
            prompt_tokens_total=self._prompt_tokens_total,
            cost=self._fit.measured,
            cost_samples=self._fit.num_samples,
            short_tokens=self._fit.short_tokens,
        )
