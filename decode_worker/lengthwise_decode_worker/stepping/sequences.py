"""The requests of a decode worker: what commands and steps do to their tokens.

Runs on the engine thread. What routers and calls are notified of goes into the step's report.
"""

from collections.abc import Callable, Mapping, Sequence

from lengthwise_decode_worker.messages import (
    Command,
    Commit,
    DecodeWork,
    Finished,
    ReleaseReceiving,
)
from lengthwise_decode_worker.stepping.launched import LaunchedStep
from lengthwise_decode_worker.stepping.local_prefills import LocalPrefills
from lengthwise_decode_worker.stepping.step_report import DecodeReport
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import NO_TOKEN, NO_TOKEN_TEXT, SampledToken
from lengthwise_engine.sampling.grammar import refusal_of
from lengthwise_policy.decode.request import Grant
from lengthwise_policy.decode.scheduler import DecodeScheduler
from lengthwise_policy.decode.step import DecodeStep
from lengthwise_policy.errors import PolicyError
from lengthwise_policy.kv.prefix_cache import block_hashes
from lengthwise_policy.types import PromptChunk, RequestId
from lengthwise_wire.v1 import common_pb2
from lengthwise_worker.adapters.lease import number_of
from lengthwise_worker.messages import Release, RequestExpired, RequestRefused


class DecodeSequences:
    """Owns the works; shares the scheduler with the step loop."""

    def __init__(
        self, scheduler: DecodeScheduler, *, block_size: int, clock: Callable[[], float]
    ) -> None:
        self._scheduler = scheduler
        self._block_size = block_size
        self._clock = clock
        self._works: dict[RequestId, DecodeWork] = {}
        self._local = LocalPrefills()

    def obey(self, command: Command, report: DecodeReport) -> None:
        if isinstance(command, DecodeWork):
            self.reserve(command, report)
        elif isinstance(command, Commit):
            self._commit(command, report)
        elif isinstance(command, Release | ReleaseReceiving):
            receiving = isinstance(command, ReleaseReceiving)
            self._scheduler.release(command.request_id, receiving=receiving)
            self._works.pop(command.request_id, None)
            self._local.forget(command.request_id)
        else:
            self._scheduler.drained(command.request_id)

    def reserve(self, work: DecodeWork, report: DecodeReport) -> None:
        try:
            grant = self._scheduler.reserve(work.reservation)
        except PolicyError as error:
            report.outcomes.append(RequestRefused(request_id=work.request_id, error=error))
            return
        self._works[work.request_id] = work
        if grant is not None:
            self._granted(grant, report)

    def expire(self, now: float, report: DecodeReport) -> None:
        report.outcomes.extend(
            RequestExpired(request_id=request_id) for request_id in self._scheduler.expired(now)
        )

    def grant(self, report: DecodeReport) -> None:
        """Grants as much of the queue as may run now."""
        for grant in self._scheduler.take_granted():
            self._granted(grant, report)

    def chunks(
        self, step: DecodeStep, places: Mapping[RequestId, int], report: DecodeReport
    ) -> list[SequenceChunk]:
        """What the runner computes in this step. `places`: which chunk of the step in flight
        samples the token that a request's row begins with."""
        for request_id in step.preempted:
            work = self._works[request_id]
            report.rows_of(work.router_id).preempted.append(work.number)
        report.preemptions += len(step.preempted)
        rows = [self._row(self._works[each], places.get(each)) for each in step.request_ids]
        return rows + [self._chunk(chunk, step, report) for chunk in step.chunks]

    def emit(
        self, launched: LaunchedStep, sampled: Sequence[SampledToken | None], report: DecodeReport
    ) -> int:
        """The step has ended, with a token of each of its chunks; returns how many requests go on
        with one."""
        # A request that ended since the launch is not among them: its token was computed in vain.
        emitted = self._scheduler.emitted(launched.step)
        for request_id in emitted:
            token = sampled[launched.places[request_id]]
            assert token is not None
            self._append(self._works[request_id], token, report)
        return len(emitted)

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

    def _row(self, work: DecodeWork, follows: int | None) -> SequenceChunk:
        tokens = work.token_ids
        return SequenceChunk(
            token_ids=tokens[-1:] if follows is None else (0,),
            start=len(tokens) - (follows is None),
            block_ids=self._scheduler.block_ids(work.request_id),
            sampling=work.sampling,
            follows=follows,
            adapter=number_of(work.adapter),
        )

    def _chunk(self, chunk: PromptChunk, step: DecodeStep, report: DecodeReport) -> SequenceChunk:
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
            adapter=number_of(work.adapter),
        )

    def _append(self, work: DecodeWork, token: SampledToken, report: DecodeReport) -> None:
        rows = report.rows_of(work.router_id)
        if token.token_id == NO_TOKEN:
            reason = refusal_of(work.sampling.grammar)
            rows.fail(work.number, reason or NO_TOKEN_TEXT, refused=bool(reason))
            self._local.forget(work.request_id)
            self._forget(work, report)
            return
        prefill = self._local.ended(work, self._clock())
        if prefill is not None:
            rows.local_prefills.append(prefill)
        rows.append(work.number, len(work.token_ids) - work.sampling.num_prompt_tokens, token)
        if len(work.token_ids) == work.first_length:
            rows.urgent.add(work.number)
        work.token_ids.append(token.token_id)
        self._name_full_block(work)
        if token.token_id in work.stop_token_ids:
            self._finish(work, common_pb2.FINISH_REASON_STOP, report)
        elif len(work.token_ids) >= work.last_length:
            self._finish(work, common_pb2.FINISH_REASON_LENGTH, report)

    def _name_full_block(self, work: DecodeWork) -> None:
        """Names the last block if the step has filled it: all tokens but the newest have KV."""
        if (len(work.token_ids) - 1) % self._block_size == 0:
            work.hashes[:] = block_hashes(work.token_ids, self._block_size, work.salt, work.hashes)
            self._scheduler.named(work.request_id, work.hashes)

    def _finish(
        self, work: DecodeWork, reason: common_pb2.FinishReason, report: DecodeReport
    ) -> None:
        report.rows_of(work.router_id).end(work.number, reason)
        self._forget(work, report)

    def _forget(self, work: DecodeWork, report: DecodeReport) -> None:
        report.outcomes.append(Finished(request_id=work.request_id))
        self._scheduler.finish(work.request_id)
        del self._works[work.request_id]
