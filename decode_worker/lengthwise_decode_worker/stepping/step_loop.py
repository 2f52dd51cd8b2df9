"""The decode engine's step: drain the mailbox, plan a step, launch it, hand tokens over once.

Where the runner runs ahead, the tokens are those of the step before: the device computes one step
while the host hands out what came of the last one and plans the next. Elsewhere a step has ended
when it was launched, and its own tokens are handed over.

Runs on the engine thread, which alone touches the scheduler and the model.
"""

import time
from collections.abc import Callable

from lengthwise_decode_worker.messages import (
    Command,
    Commit,
    DecodeWork,
    Finished,
    ReleaseReceiving,
)
from lengthwise_decode_worker.stepping.launched import LaunchedStep, StepClock
from lengthwise_decode_worker.stepping.local_prefills import LocalPrefills
from lengthwise_decode_worker.stepping.snapshot import Snapshots
from lengthwise_decode_worker.stepping.step_report import DecodeReport
from lengthwise_engine.runner.base import ModelRunner, SequenceChunk, SettledStep
from lengthwise_engine.runner.sampler import SampledToken
from lengthwise_policy.cost.fit import CostFit
from lengthwise_policy.decode.request import Grant
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.errors import PolicyError
from lengthwise_policy.kv.prefix_cache import PrefixCache, block_hashes
from lengthwise_policy.types import Chunk, DecodeStep, RequestId
from lengthwise_runtime.mailbox import Mailbox
from lengthwise_wire.v1 import common_pb2
from lengthwise_worker.messages import Release, RequestExpired, RequestRefused
from lengthwise_worker.step_loop import IDLE_SECONDS

POLL_SECONDS = 0.001
"""How often a long step is looked at, between reservations. Others are waited for: on a machine
whose cores are busy, looking at each 5 ms step took 6 to 12 ms, waiting for it 5.7 ms."""

POLLED_SECONDS = 10.0
"""How long; then the runner alone says how long a step may take."""

MAX_DEFERRED = 4096
"""Commands taken out of the mailbox during one step for after it; beyond, they wait in the mailbox,
whose limit refuses."""


class DecodeLoop:
    """Owns scheduler and runner. `step` is what the engine thread repeats."""

    def __init__(
        self,
        *,
        runner: ModelRunner,
        scheduler: DecodeScheduler,
        blocks: PrefixCache,
        salt: bytes,
        mailbox: Mailbox[Command],
        publish: Callable[[DecodeReport], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`publish` is called on the engine thread, once per turn that did anything, and before and
        during it where requests were granted or refused. `salt` is that of block hashes."""
        self._runner = runner
        self._block_size = runner.layout.block_size
        self._scheduler = scheduler
        self._blocks = blocks
        self._salt = salt
        self._mailbox = mailbox
        self._publish = publish
        self._clock = clock
        self._fit = CostFit()
        self._works: dict[RequestId, DecodeWork] = {}
        self._deferred: list[Command] = []  # came during a step, for after it
        self._local = LocalPrefills()
        self._in_flight: LaunchedStep | None = None
        self._step_clock = StepClock()
        self._step_ended_at: float | None = None
        self._snapshots = Snapshots(scheduler, blocks, self._fit)
        self.progress = 0
        """Grows with every layer of every step: still while requests run means stuck."""
        self.snapshot = self._snapshots.take(self._clock())

    def step(self) -> None:
        """See `lengthwise_worker.step_loop.StepLoop`."""
        report = DecodeReport()
        began_at = None if self._in_flight is None else self._clock()
        if self._in_flight is not None and not self._in_flight.may_be_followed:
            self._settle(self._in_flight, report)
            self._in_flight = None
        commands = self._take_commands()
        for command in commands:
            self._obey(command, report)
        now = self._clock()
        report.outcomes.extend(
            RequestExpired(request_id=request_id) for request_id in self._scheduler.expired(now)
        )
        self._grant(report)
        if report.outcomes:
            # Whoever was granted blocks need not wait for the step to be told.
            self._publish(report)
            report = DecodeReport()
        before = self._in_flight
        launched = self._launch(before, now, report)
        is_ahead = self._runner.runs_ahead
        ended, self._in_flight = (before, launched) if is_ahead else (launched, None)
        if ended is not None:
            self._settle(ended, report)
        else:
            self._step_ended_at = None
        if ended is None and launched is None and self._scheduler.num_running:
            # All of it waits for blocks that transfers hold; the engine is not stuck.
            self.progress += 1
        ended_at = self._clock()
        if launched is not None and began_at is None:
            began_at = now
        if began_at is not None:
            report.busy_seconds = ended_at - began_at
        self.snapshot = self._snapshots.take(ended_at)
        report.block_events = self._blocks.take_events()
        if commands or report.block_events or began_at is not None:
            self._publish(report)

    def close(self) -> None:
        """Waits until nothing writes to the cache any more; call it once `step` is not any more."""
        if self._in_flight is not None:
            self._in_flight.pending.tokens()

    def _take_commands(self) -> list[Command]:
        commands, self._deferred = self._deferred, []
        is_idle = self._step_ended_at is None and self._in_flight is None
        return commands + self._mailbox.drain(IDLE_SECONDS if is_idle and not commands else 0.0)

    def _obey(self, command: Command, report: DecodeReport) -> None:
        if isinstance(command, DecodeWork):
            self._reserve(command, report)
        elif isinstance(command, Commit):
            self._commit(command, report)
        elif isinstance(command, Release | ReleaseReceiving):
            receiving = isinstance(command, ReleaseReceiving)
            self._scheduler.release(command.request_id, receiving=receiving)
            self._works.pop(command.request_id, None)
            self._local.forget(command.request_id)
        else:
            self._scheduler.drained(command.request_id)

    def _reserve(self, work: DecodeWork, report: DecodeReport) -> None:
        try:
            grant = self._scheduler.reserve(work.reservation)
        except PolicyError as error:
            report.outcomes.append(RequestRefused(request_id=work.request_id, error=error))
            return
        self._works[work.request_id] = work
        if grant is not None:
            self._granted(grant, report)

    def _grant(self, report: DecodeReport) -> None:
        for grant in self._scheduler.take_granted():
            self._granted(grant, report)

    def _granted(self, grant: Grant, report: DecodeReport) -> None:
        report.admissions[grant.rule] += 1
        if grant.rule == "resumed":
            return
        report.cached_tokens += grant.num_cached_tokens
        if self._works[grant.request_id].reservation.local:
            self._local.granted(grant, self._clock())
        report.outcomes.append(grant)

    def _commit(self, commit: Commit, report: DecodeReport) -> None:
        work = self._works.get(commit.request_id)
        if work is None:
            # Released while the commit was on its way here.
            return
        self._scheduler.commit(commit.request_id)
        work.token_ids.append(commit.first_token_id)
        if len(work.token_ids) == work.last_length:
            self._finish(work, common_pb2.FINISH_REASON_LENGTH, report)

    def _launch(
        self, before: LaunchedStep | None, now: float, report: DecodeReport
    ) -> LaunchedStep | None:
        """Launches the next step; None: there is none, or none before the one `before` ends."""
        step = self._scheduler.next_step(self._fit.model)
        if step is None:
            return None
        is_warm = before is not None or self._step_ended_at is not None
        if before is not None:
            report.gap_seconds = 0.0
        elif self._step_ended_at is not None:
            report.gap_seconds = now - self._step_ended_at
        self.snapshot = self._snapshots.take(now)
        for request_id in step.preempted:
            work = self._works[request_id]
            report.rows_of(work.router_id).preempted.append(work.number)
        report.preemptions += len(step.preempted)
        sampling = {} if before is None else before.places
        chunks = [self._row(self._works[each], sampling.get(each)) for each in step.request_ids]
        chunks += [self._chunk(chunk, step, report) for chunk in step.chunks]
        on_layer = None if self._runner.runs_ahead else self._on_layer
        launched_at = self._clock()
        return LaunchedStep(
            step=step,
            chunks=chunks,
            pending=self._runner.launch(chunks, on_layer) if chunks else SettledStep([]),
            launched_at=launched_at,
            is_warm=is_warm,
        )

    def _settle(self, launched: LaunchedStep, report: DecodeReport) -> None:
        """Waits for the tokens of a step, and hands them out."""
        is_late = self._runner.runs_ahead and launched.pending.is_ready
        self._await(launched)
        sampled = launched.pending.tokens()
        seconds = self._step_clock.seconds(launched.launched_at, self._clock(), is_late=is_late)
        if seconds is not None and launched.is_warm and launched.chunks:
            self._fit.observe(launched.sample(seconds))
        self.progress += 1
        # Who ended since the launch is not among them: its token was computed in vain.
        emitted = self._scheduler.emitted(launched.step)
        for request_id in emitted:
            token = sampled[launched.places[request_id]]
            assert token is not None
            self._emit(self._works[request_id], token, report)
        self._snapshots.count(output_tokens=len(emitted), prompt_tokens=launched.num_prompt_tokens)
        self._grant(report)
        self._step_ended_at = self._clock()

    def _await(self, launched: LaunchedStep) -> None:
        """Answers reservations until a step has ended, if that may take long."""
        if not launched.step.chunks:
            return
        until = self._clock() + POLLED_SECONDS
        while not launched.pending.is_ready and len(self._deferred) < MAX_DEFERRED:
            self._answer(POLL_SECONDS)
            if self._clock() > until:
                return

    def _on_layer(self, _layer: int) -> None:
        self.progress += 1
        if len(self._deferred) < MAX_DEFERRED:
            self._answer(0.0)

    def _answer(self, seconds: float) -> None:
        """Reservations are answered during a step: with a chunk in it a step may last 100 ms, and
        a prompt is sent to a prefill worker only once its blocks are held."""
        report = DecodeReport()
        for command in self._mailbox.drain(seconds):
            if isinstance(command, DecodeWork):
                self._reserve(command, report)
            else:
                self._deferred.append(command)
        if report.outcomes:
            self._publish(report)

    def _row(self, work: DecodeWork, follows: int | None) -> SequenceChunk:
        tokens = work.token_ids
        return SequenceChunk(
            token_ids=tokens[-1:] if follows is None else (0,),
            start=len(tokens) - (follows is None),
            block_ids=self._scheduler.block_ids(work.request_id),
            sampling=work.sampling,
            follows=follows,
        )

    def _chunk(self, chunk: Chunk, step: DecodeStep, report: DecodeReport) -> SequenceChunk:
        work = self._works[chunk.request_id]
        if self._local.started(chunk, self._clock(), step.reason):
            report.local_prefill_tokens += chunk.num_tokens
        else:
            report.recomputed_tokens += chunk.num_tokens
        return SequenceChunk(
            token_ids=work.token_ids[chunk.start : chunk.start + chunk.num_tokens],
            start=chunk.start,
            block_ids=self._scheduler.block_ids(chunk.request_id),
            sampling=work.sampling if chunk.is_last else None,
        )

    def _emit(self, work: DecodeWork, token: SampledToken, report: DecodeReport) -> None:
        rows = report.rows_of(work.router_id)
        prefill = self._local.ended(work, self._clock())
        if prefill is not None:
            rows.local_prefills.append(prefill)
        rows.append(work.number, len(work.token_ids) - work.sampling.num_prompt_tokens, token)
        work.token_ids.append(token.token_id)
        self._name_full_block(work)
        if token.token_id in work.stop_token_ids:
            self._finish(work, common_pb2.FINISH_REASON_STOP, report)
        elif len(work.token_ids) >= work.last_length:
            self._finish(work, common_pb2.FINISH_REASON_LENGTH, report)

    def _name_full_block(self, work: DecodeWork) -> None:
        """Names the last block if the step has filled it: all tokens but the newest have KV."""
        if (len(work.token_ids) - 1) % self._block_size == 0:
            work.hashes[:] = block_hashes(work.token_ids, self._block_size, self._salt, work.hashes)
            self._scheduler.named(work.request_id, work.hashes)

    def _finish(
        self, work: DecodeWork, reason: common_pb2.FinishReason, report: DecodeReport
    ) -> None:
        report.rows_of(work.router_id).end(work.number, reason)
        report.outcomes.append(Finished(request_id=work.request_id))
        self._scheduler.finish(work.request_id)
        del self._works[work.request_id]
