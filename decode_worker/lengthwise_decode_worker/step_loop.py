"""The decode engine's step: drain the mailbox, plan a step, run it, hand the tokens over once.

Runs on the engine thread, which alone touches the scheduler and the model.
"""

import time
from collections.abc import Callable

from lengthwise.v1 import common_pb2
from lengthwise_decode_worker.commands import (
    Command,
    Commit,
    DecodeWork,
    Expired,
    Finished,
    Granted,
    Refused,
    Release,
)
from lengthwise_decode_worker.local_prefills import LocalPrefills
from lengthwise_decode_worker.snapshot import Snapshots
from lengthwise_decode_worker.step_output import StepOutput
from lengthwise_engine.runner import ModelRunner, SequenceChunk
from lengthwise_engine.sampler import SampledToken
from lengthwise_policy.decode import DecodeScheduler, Reservation
from lengthwise_policy.decode_requests import Grant
from lengthwise_policy.errors import PolicyError
from lengthwise_policy.fit import CostFit, StepSample
from lengthwise_policy.prefix import PrefixCache, block_hashes
from lengthwise_policy.types import Chunk, DecodeStep, RequestId
from lengthwise_runtime.mailbox import Mailbox

IDLE_SECONDS = 0.1
"""How long an idle engine waits for a command before it looks at leases again."""

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
        publish: Callable[[StepOutput], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`publish` is called on the engine thread, once per step that did anything, and before and
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
        self._step_ended_at: float | None = None
        self._snapshots = Snapshots(scheduler, blocks, self._fit)
        self.progress = 0
        """Grows with every layer of every step: still while requests run means stuck."""
        self.snapshot = self._snapshots.take(self._clock())

    def step(self) -> None:
        """One turn; returns within the time of one step, or IDLE_SECONDS when nothing runs."""
        is_idle = self._step_ended_at is None
        output = StepOutput()
        commands, self._deferred = self._deferred, []
        commands += self._mailbox.drain(IDLE_SECONDS if is_idle and not commands else 0.0)
        for command in commands:
            self._obey(command, output)
        now = self._clock()
        output.outcomes.extend(
            Expired(request_id=request_id) for request_id in self._scheduler.expired(now)
        )
        self._grant(output)
        if output.outcomes:
            # Whoever was granted blocks need not wait for the step to be told.
            self._publish(output)
            output = StepOutput()
        step = self._scheduler.next_step(self._fit.model)
        if step is not None:
            if self._step_ended_at is not None:
                output.gap_seconds = now - self._step_ended_at
            self.snapshot = self._snapshots.take(now)
            self._run(step, output)
            self._grant(output)
        elif self._scheduler.num_running:
            # All of it waits for blocks that transfers hold; the engine is not stuck.
            self.progress += 1
        ended_at = self._clock()
        self._step_ended_at = None
        if step is not None:
            self._step_ended_at = ended_at
            output.busy_seconds = ended_at - now
        self.snapshot = self._snapshots.take(ended_at)
        output.block_events = self._blocks.take_events()
        if commands or output.block_events or step is not None:
            self._publish(output)

    def _obey(self, command: Command, output: StepOutput) -> None:
        if isinstance(command, DecodeWork):
            self._reserve(command, output)
        elif isinstance(command, Commit):
            self._commit(command, output)
        elif isinstance(command, Release):
            self._scheduler.release(command.request_id, receiving=command.receiving)
            self._works.pop(command.request_id, None)
            self._local.forget(command.request_id)
        else:
            self._scheduler.drained(command.request_id)

    def _reserve(self, work: DecodeWork, output: StepOutput) -> None:
        reservation = Reservation(
            request_id=work.request_id,
            num_tokens=len(work.token_ids),
            max_new_tokens=work.max_tokens,
            deadline_at=work.deadline_at,
            hashes=work.hashes,
            local=work.local,
            returning=work.returning,
            priority=work.priority,
        )
        try:
            grant = self._scheduler.reserve(reservation)
        except PolicyError as error:
            output.outcomes.append(Refused(request_id=work.request_id, error=error))
            return
        self._works[work.request_id] = work
        if grant is not None:
            self._granted(grant, output)

    def _grant(self, output: StepOutput) -> None:
        for grant in self._scheduler.take_granted():
            self._granted(grant, output)

    def _granted(self, grant: Grant, output: StepOutput) -> None:
        if grant.resumed:
            output.count_admission("resumed")
            return
        output.count_admission(grant.reason.partition(":")[0])
        output.cached_tokens += grant.num_cached_tokens
        if self._works[grant.request_id].local:
            self._local.granted(grant, self._clock())
        output.outcomes.append(
            Granted(
                request_id=grant.request_id,
                block_ids=grant.block_ids,
                num_cached_tokens=grant.num_cached_tokens,
                reason=grant.reason,
            )
        )

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
        for request_id in step.preempted:
            work = self._works[request_id]
            output.rows_of(work.router_id).preempted.append(work.reservation)
        output.preemptions += len(step.preempted)
        rows = [self._works[request_id] for request_id in step.request_ids]
        chunks = [self._row(work) for work in rows]
        chunks += [self._chunk(chunk, step, output) for chunk in step.chunks]
        sampled = self._compute(step, chunks) if chunks else []
        self.progress += 1
        # Nobody was released while the step ran: that waits until after it.
        emitted = self._scheduler.emitted(step)
        tokens = [token for token in sampled if token is not None]
        for request_id, token in zip(emitted, tokens, strict=True):
            self._emit(self._works[request_id], token, output)
        self._snapshots.count(
            output_tokens=len(tokens), prompt_tokens=sum(chunk.num_tokens for chunk in step.chunks)
        )

    def _compute(self, step: DecodeStep, chunks: list[SequenceChunk]) -> list[SampledToken | None]:
        started_at = self._clock()
        sampled = self._runner.run(chunks, self._on_layer)
        # The first step after a pause finds caches cold and clocks low.
        if self._step_ended_at is not None:
            self._fit.observe(_sample_of(step, chunks, self._clock() - started_at))
        return sampled

    def _on_layer(self, _layer: int) -> None:
        """Reservations are answered between layers: with a chunk in it a step may last 100 ms, and
        a prompt is sent to a prefill worker only once its blocks are held."""
        self.progress += 1
        if len(self._deferred) >= MAX_DEFERRED:
            return
        output = StepOutput()
        for command in self._mailbox.drain(0.0):
            if isinstance(command, DecodeWork):
                self._reserve(command, output)
            else:
                self._deferred.append(command)
        if output.outcomes:
            self._publish(output)

    def _row(self, work: DecodeWork) -> SequenceChunk:
        tokens = work.token_ids
        return SequenceChunk(
            token_ids=tokens[-1:],
            start=len(tokens) - 1,
            block_ids=self._scheduler.block_ids(work.request_id),
            sampling=work.sampling,
        )

    def _chunk(self, chunk: Chunk, step: DecodeStep, output: StepOutput) -> SequenceChunk:
        work = self._works[chunk.request_id]
        if self._local.started(chunk, self._clock(), step.reason):
            output.local_prefill_tokens += chunk.num_tokens
        else:
            output.recomputed_tokens += chunk.num_tokens
        return SequenceChunk(
            token_ids=work.token_ids[chunk.start : chunk.start + chunk.num_tokens],
            start=chunk.start,
            block_ids=self._scheduler.block_ids(chunk.request_id),
            sampling=work.sampling if chunk.is_last else None,
        )

    def _emit(self, work: DecodeWork, token: SampledToken, output: StepOutput) -> None:
        rows = output.rows_of(work.router_id)
        prefill = self._local.ended(work, self._clock())
        if prefill is not None:
            rows.local_prefills.append(prefill)
        rows.append(work.reservation, len(work.token_ids) - work.sampling.num_prompt_tokens, token)
        work.token_ids.append(token.token_id)
        self._name_full_block(work)
        generated = len(work.token_ids) - work.num_given_tokens
        if token.token_id in work.stop_token_ids:
            self._finish(work, common_pb2.FINISH_REASON_STOP, output)
        elif generated >= work.max_tokens:
            self._finish(work, common_pb2.FINISH_REASON_LENGTH, output)

    def _name_full_block(self, work: DecodeWork) -> None:
        """Names the last block if the step has filled it: all tokens but the newest have KV."""
        if (len(work.token_ids) - 1) % self._block_size == 0:
            work.hashes[:] = block_hashes(work.token_ids, self._block_size, self._salt, work.hashes)
            self._scheduler.named(work.request_id, work.hashes)

    def _finish(
        self, work: DecodeWork, reason: common_pb2.FinishReason, output: StepOutput
    ) -> None:
        output.rows_of(work.router_id).end(work.reservation, reason)
        output.outcomes.append(Finished(request_id=work.request_id))
        self._scheduler.finish(work.request_id)
        del self._works[work.request_id]


def _sample_of(step: DecodeStep, chunks: list[SequenceChunk], seconds: float) -> StepSample:
    """The features of cost.py's formulas."""
    num_rows = len(step.request_ids)
    return StepSample(
        seconds=seconds,
        new_tokens=sum(chunk.num_tokens for chunk in step.chunks),
        attention=sum(c.num_tokens * (c.num_tokens + 2 * c.start) for c in step.chunks),
        history=sum(chunk.start for chunk in step.chunks),
        decode_requests=num_rows,
        decode_context=sum(row.end for row in chunks[:num_rows]),
    )
