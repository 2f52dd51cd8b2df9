"""The workers of one attempt: how far it has come with them, whether one is lost, and which is to
blame for a failure."""

from typing import Self

from lengthwise_policy.placement.blame import NO_BLAME, Blame
from lengthwise_policy.types import WorkerId
from lengthwise_router.labels import FailureReason, LossReason, Phase
from lengthwise_router.serving.failures import AttemptFailed, reason_of
from lengthwise_router.serving.reservation import DecodeReservation
from lengthwise_router.workers.wakeup import Wakeup
from lengthwise_router.workers.worker import Worker
from lengthwise_wire.capabilities import kept_capabilities
from lengthwise_wire.errors import InvalidRequest, LengthwiseError, NoWorkerAvailable


class WorkerPair:
    """A context manager: within it, the pair is notified of the loss of its workers."""

    def __init__(
        self, prefill: Worker | None, reservation: DecodeReservation | None, wakeup: Wakeup
    ) -> None:
        """Without a `prefill` worker the reservation is a local one; without a reservation one
        token is all. `wakeup` is rung at a loss."""
        self.prefill = prefill
        self.prefill_id = prefill.worker_id if prefill is not None else WorkerId("")
        self.reservation = reservation
        self.phase: Phase = "reserve"
        self._wakeup = wakeup
        self._lost: tuple[Worker, LossReason] | None = None
        self._leaves = False

    def __enter__(self) -> Self:
        if self.prefill is not None:
            self.prefill.dependents.add(self)
        if self.reservation is not None:
            self.reservation.worker.dependents.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self.prefill is not None:
            self.prefill.dependents.discard(self)
        if self.reservation is not None:
            self.reservation.worker.dependents.discard(self)

    @property
    def kept_capabilities(self) -> frozenset[str]:
        """What a worker must have to go on with what this pair has begun; both are of one kind."""
        worker = self.prefill
        if worker is None and self.reservation is not None:
            worker = self.reservation.worker
        status = worker.status if worker is not None else None
        return kept_capabilities(status.capabilities) if status is not None else frozenset()

    def worker_lost(self, worker: Worker, reason: LossReason) -> None:
        reservation = self.reservation
        if worker is self.prefill and reservation is not None:
            if not reservation.is_untouched:
                return  # it has done its part: tokens come
            if self.phase == "transfer" and worker.has_left:
                return  # it waited for its transfers; the decode worker reports one that failed
        self._lost = worker, reason
        self._wakeup.ring()

    def leave(self) -> None:
        """The prompt had better be placed anew, unless it is computed by now."""
        self._leaves = True
        self._wakeup.ring()

    def check(self) -> None:
        """Errors: AttemptFailed when the attempt cannot go on, InvalidRequest when none could."""
        reservation = self.reservation
        if self._lost is not None:
            worker, reason = self._lost
            is_prefill = worker is self.prefill
            raise self.failure(
                reason,
                f"{'prefill' if is_prefill else 'decode'} worker at {worker.address} was lost:"
                f" {reason}",
                Blame.of(
                    self.prefill_id if is_prefill or reservation is None else reservation.worker_id
                ),
                keeps_reservation=is_prefill,
            )
        if self._leaves and self.phase == "prefill":
            raise self.failure(
                "crowded",
                "it waits at a prefill worker, and another one has come",
                Blame.of(self.prefill_id),
                keeps_reservation=True,
            )
        if reservation is not None and reservation.stream.failure is not None:
            stream = reservation.stream
            if stream.failure == "refused":
                raise InvalidRequest(stream.failure_details)
            details = f"decode worker: {stream.failure_details}"
            has_ended = stream.failure == "ended_with_error"
            blame = self.transfer_blame() if has_ended else Blame.of(reservation.worker_id)
            raise self.failure(reservation.stream.failure, details, blame)

    def call_failure(self, error: LengthwiseError, callee: WorkerId) -> AttemptFailed:
        """A worker has answered with an error."""
        reason = reason_of(error)
        if reason == "overloaded":
            return self.failure(reason, error, Blame.of(callee))
        if reason == "transfer_failed" and self.reservation is not None:
            return self.failure(reason, error, self.transfer_blame())
        if reason == "stale":
            # The reservation failed before this router noticed: a new one may well succeed there.
            return self.failure(reason, str(error), NO_BLAME)
        details = f"worker {callee}: {error.status.name}: {error}"
        return self.failure(reason, details, Blame.of(callee), keeps_reservation=True)

    def transfer_blame(self) -> Blame:
        """For what has gone wrong at the decode worker's end: until its tokens come, it may be that
        KV did not come across."""
        assert self.reservation is not None
        decode_id = self.reservation.worker_id
        if self.prefill is None or self.phase == "decode":
            return Blame.of(decode_id)
        return Blame(links=frozenset({(self.prefill_id, decode_id)}))

    def crowded(self, cause: str, blame: Blame) -> AttemptFailed:
        """A worker has more to do than the router knew; what is reserved stays, without anything in
        it."""
        reservation = self.reservation
        if reservation is not None:
            reservation.is_empty = True
        return AttemptFailed(
            phase=self.phase,
            reason="crowded",
            error=NoWorkerAvailable(f"{self.phase} failed: {cause}"),
            blame=blame,
            keeps_reservation=reservation is not None and reservation.is_untouched,
        )

    def failure(
        self,
        reason: FailureReason,
        cause: LengthwiseError | str,
        blame: Blame,
        *,
        keeps_reservation: bool = False,
    ) -> AttemptFailed:
        """A reservation is kept only where a prefill worker failed before anything came of it."""
        if isinstance(cause, str):
            cause = NoWorkerAvailable(f"{self.phase} failed: {cause}")
        return AttemptFailed(
            phase=self.phase,
            reason=reason,
            error=cause,
            blame=blame,
            keeps_reservation=keeps_reservation
            and self.phase == "prefill"
            and self.reservation is not None
            and self.reservation.is_untouched,
        )
