"""The decode engine's step: drain the mailbox, plan a step, launch it, publish tokens once.

Where the runner runs ahead, the tokens are those of the step before: the device computes one step
while the host publishes the tokens of the last one and plans the next. Elsewhere a step has ended
when it was launched, and its own tokens are published.

Runs on the engine thread, which alone touches the scheduler and the model.
"""

import time
from collections.abc import Callable

from lengthwise_decode_worker.messages import Command, DecodeWork
from lengthwise_decode_worker.stepping.launched import LaunchedStep
from lengthwise_decode_worker.stepping.sequences import DecodeSequences
from lengthwise_decode_worker.stepping.snapshot import Snapshots
from lengthwise_decode_worker.stepping.step_report import DecodeReport
from lengthwise_engine.runner.base import ModelRunner, SettledStep
from lengthwise_policy.cost.fit import CostFit
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.kv.prefix_cache import PrefixCache
from lengthwise_runtime.mailbox import Mailbox
from lengthwise_worker.step_loop import IDLE_SECONDS, StepClock

POLL_SECONDS = 0.001
"""How often a long step is looked at, between reservations. Others are waited for: on a machine
whose cores are busy, looking at each 5 ms step took 6 to 12 ms, waiting for it 5.7 ms."""

POLLED_SECONDS = 10.0
"""For so long; then the runner's own limit of a step applies."""

MAX_DEFERRED = 4096
"""Commands taken out of the mailbox during one step for after it; beyond, they wait in the mailbox,
whose limit refuses."""


class DecodeLoop:
    """See `lengthwise_worker.step_loop.StepLoop`."""

    def __init__(
        self,
        *,
        runner: ModelRunner,
        scheduler: DecodeScheduler,
        blocks: PrefixCache,
        mailbox: Mailbox[Command],
        publish: Callable[[DecodeReport], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`publish` is called on the engine thread, once per turn that did anything, and before and
        during it where requests were granted or refused."""
        self._runner = runner
        self._scheduler = scheduler
        self._sequences = DecodeSequences(
            scheduler, block_size=runner.layout.block_size, clock=clock
        )
        self._blocks = blocks
        self._mailbox = mailbox
        self._publish = publish
        self._clock = clock
        self._fit = CostFit()
        self._deferred: list[Command] = []  # came during a step, for after it
        self._in_flight: LaunchedStep | None = None
        self._step_clock = StepClock()
        self._step_ended_at: float | None = None
        self._snapshots = Snapshots(scheduler, blocks, self._fit)
        self.progress = 0
        self.snapshot = self._snapshots.take(self._clock())

    def step(self) -> None:
        report = DecodeReport()
        began_at = None if self._in_flight is None else self._clock()
        if self._in_flight is not None and not self._in_flight.may_be_followed:
            self._settle(self._in_flight, report)
            self._in_flight = None
        commands = self._take_commands()
        for command in commands:
            self._sequences.obey(command, report)
        now = self._clock()
        self._sequences.expire(now, report)
        self._sequences.grant(report)
        if report.outcomes:
            # A call that was granted blocks need not wait for the step.
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
        """Waits until nothing writes to the cache any more; `step` must not be called again."""
        if self._in_flight is not None:
            self._in_flight.pending.tokens()

    def _take_commands(self) -> list[Command]:
        commands, self._deferred = self._deferred, []
        is_idle = self._step_ended_at is None and self._in_flight is None
        return commands + self._mailbox.drain(IDLE_SECONDS if is_idle and not commands else 0.0)

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
        places = {} if before is None else before.places
        chunks = self._sequences.chunks(step, places, report)
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
        """Waits for the tokens of a step, and appends them."""
        is_late = self._runner.runs_ahead and launched.pending.is_ready
        self._await(launched)
        sampled = launched.pending.tokens()
        seconds = self._step_clock.seconds(launched.launched_at, self._clock(), is_late=is_late)
        if seconds is not None and launched.is_warm and launched.chunks:
            self._fit.observe(launched.sample(seconds))
        self.progress += 1
        num_emitted = self._sequences.emit(launched, sampled, report)
        self._snapshots.count(output_tokens=num_emitted, prompt_tokens=launched.num_prompt_tokens)
        self._sequences.grant(report)
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
                self._sequences.reserve(command, report)
            else:
                self._deferred.append(command)
        if report.outcomes:
            self._publish(report)
