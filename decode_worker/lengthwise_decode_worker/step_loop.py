"""The decode engine's step: drain the mailbox, plan a step, run it, hand the tokens over once.

Runs on the engine thread, which alone touches the scheduler and the model.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lengthwise.v1 import common_pb2
from lengthwise_decode_worker.rows import RouterRows
from lengthwise_engine.runner import ModelRunner, SequenceChunk
from lengthwise_engine.sampler import SampledToken, SamplingState
from lengthwise_policy.blocks import BlockPool
from lengthwise_policy.decode import DecodeScheduler, Reservation
from lengthwise_policy.errors import PolicyError
from lengthwise_policy.types import DecodeStep, RequestId
from lengthwise_runtime.mailbox import Mailbox

IDLE_SECONDS = 0.1
"""How long an idle engine waits for a command before it looks at leases again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeWork:
    """A request as the engine needs it. `max_tokens` counts the prefill worker's first token
    too."""

    request_id: RequestId
    router_id: str
    reservation: int
    token_ids: list[int]
    """The whole sequence; grows. `sampling.token_ids` is this very list."""
    sampling: SamplingState
    stop_token_ids: frozenset[int]
    max_tokens: int
    num_given_tokens: int
    """Tokens that were there before the first one generated for this reservation."""
    deadline_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """All KV of the prompt is in the reserved blocks."""

    request_id: RequestId
    first_token_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Ends a request in any state; with `receiving`, its blocks are held until `Drained`."""

    request_id: RequestId
    receiving: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    request_id: RequestId


Command = DecodeWork | Commit | Release | Drained


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The reservation holds these blocks, in the order of its tokens."""

    request_id: RequestId
    block_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    request_id: RequestId
    error: PolicyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """The lease has run out; the request is still to be released."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The request generated its last token and is released."""

    request_id: RequestId


Outcome = Granted | Refused | Expired | Finished


@dataclass(slots=True, kw_only=True)
class StepOutput:
    """Everything one turn of the loop has to tell."""

    outcomes: list[Outcome] = field(default_factory=list)
    rows: dict[str, RouterRows] = field(default_factory=dict)
    gap_seconds: float | None = None

    def rows_of(self, router_id: str) -> RouterRows:
        rows = self.rows.get(router_id)
        if rows is None:
            rows = self.rows[router_id] = RouterRows()
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the status tells of the engine."""

    blocks_free: int
    running_requests: int
    queued_requests: int
    queued_tokens: int
    output_tokens_total: int


class DecodeLoop:
    """Owns scheduler and runner. `step` is what the engine thread repeats."""

    def __init__(
        self,
        *,
        runner: ModelRunner,
        scheduler: DecodeScheduler,
        pool: BlockPool,
        mailbox: Mailbox[Command],
        publish: Callable[[StepOutput], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`publish` is called on the engine thread, once per step that did anything."""
        self._runner = runner
        self._scheduler = scheduler
        self._pool = pool
        self._mailbox = mailbox
        self._publish = publish
        self._clock = clock
        self._works: dict[RequestId, DecodeWork] = {}
        self._output_tokens_total = 0
        self._step_ended_at: float | None = None
        self.progress = 0
        """Grows with every layer of every step: still while requests run means stuck."""
        self.snapshot = self._take_snapshot()

    def step(self) -> None:
        """One turn; returns within the time of one step, or IDLE_SECONDS when nothing runs."""
        idle = self._scheduler.num_running == 0
        output = StepOutput()
        commands = self._mailbox.drain(IDLE_SECONDS if idle else 0.0)
        for command in commands:
            self._obey(command, output)
        now = self._clock()
        output.outcomes.extend(
            Expired(request_id=request_id) for request_id in self._scheduler.expired(now)
        )
        self._grant(output)
        step = self._scheduler.next_step()
        if step is not None:
            if self._step_ended_at is not None:
                output.gap_seconds = now - self._step_ended_at
            self.snapshot = self._take_snapshot()
            self._run(step, output)
            self._grant(output)
        self._step_ended_at = self._clock() if step is not None else None
        self.snapshot = self._take_snapshot()
        if commands or output.outcomes or step is not None:
            self._publish(output)

    def _obey(self, command: Command, output: StepOutput) -> None:
        if isinstance(command, DecodeWork):
            self._reserve(command, output)
        elif isinstance(command, Commit):
            self._commit(command, output)
        elif isinstance(command, Release):
            self._scheduler.release(command.request_id, receiving=command.receiving)
            self._works.pop(command.request_id, None)
        else:
            self._scheduler.drained(command.request_id)

    def _reserve(self, work: DecodeWork, output: StepOutput) -> None:
        reservation = Reservation(
            request_id=work.request_id,
            num_tokens=len(work.token_ids),
            max_new_tokens=work.max_tokens,
            deadline_at=work.deadline_at,
        )
        try:
            granted = self._scheduler.reserve(reservation)
        except PolicyError as error:
            output.outcomes.append(Refused(request_id=work.request_id, error=error))
            return
        self._works[work.request_id] = work
        if granted:
            output.outcomes.append(self._granted(work.request_id))

    def _grant(self, output: StepOutput) -> None:
        output.outcomes.extend(self._granted(r) for r in self._scheduler.take_granted())

    def _granted(self, request_id: RequestId) -> Granted:
        return Granted(request_id=request_id, block_ids=self._scheduler.block_ids(request_id))

    def _commit(self, commit: Commit, output: StepOutput) -> None:
        work = self._works.get(commit.request_id)
        if work is None:
            # Released while the commit was on its way here.
            return
        self._scheduler.commit(commit.request_id)
        work.token_ids.append(commit.first_token_id)
        if work.max_tokens == 1:
            self._finish(work, common_pb2.FINISH_REASON_LENGTH, output)

    def _run(self, step: DecodeStep, output: StepOutput) -> None:
        works = [self._works[request_id] for request_id in step.request_ids]
        sampled = self._runner.run([self._chunk(work) for work in works], self._on_layer)
        self.progress += 1
        # Nobody is released while a step runs: commands wait in the mailbox.
        self._scheduler.emitted(step)
        self._output_tokens_total += len(works)
        for work, token in zip(works, sampled, strict=True):
            if token is None:
                raise RuntimeError(f"the runner sampled nothing for {work.request_id}")
            self._emit(work, token, output)

    def _on_layer(self, _layer: int) -> None:
        self.progress += 1

    def _chunk(self, work: DecodeWork) -> SequenceChunk:
        tokens = work.token_ids
        return SequenceChunk(
            token_ids=tokens[-1:],
            start=len(tokens) - 1,
            block_ids=self._scheduler.block_ids(work.request_id),
            sampling=work.sampling,
        )

    def _emit(self, work: DecodeWork, token: SampledToken, output: StepOutput) -> None:
        index = len(work.token_ids) - work.sampling.num_prompt_tokens
        output.rows_of(work.router_id).append(work.reservation, index, token)
        work.token_ids.append(token.token_id)
        generated = len(work.token_ids) - work.num_given_tokens
        if token.token_id in work.stop_token_ids:
            self._finish(work, common_pb2.FINISH_REASON_STOP, output)
        elif generated >= work.max_tokens:
            self._finish(work, common_pb2.FINISH_REASON_LENGTH, output)

    def _finish(
        self, work: DecodeWork, reason: common_pb2.FinishReason, output: StepOutput
    ) -> None:
        output.rows_of(work.router_id).end(work.reservation, reason)
        output.outcomes.append(Finished(request_id=work.request_id))
        self._scheduler.release(work.request_id)
        del self._works[work.request_id]

    def _take_snapshot(self) -> Snapshot:
        return Snapshot(
            blocks_free=self._pool.num_free,
            running_requests=self._scheduler.num_running,
            queued_requests=self._scheduler.num_queued,
            queued_tokens=self._scheduler.queued_tokens,
            output_tokens_total=self._output_tokens_total,
        )
