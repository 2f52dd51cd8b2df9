"""What one step, or several, have for one router: the columns of a `TokenBatch`."""

from dataclasses import dataclass, field

from lengthwise_engine.runner.sampler import SampledToken
from lengthwise_wire.convert import logprobs_to_wire
from lengthwise_wire.v1 import common_pb2, decode_pb2


@dataclass(slots=True)
class RouterRows:
    """Plain lists, because a protobuf message costs more to append to than to build at once."""

    reservations: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[tuple[int, SampledToken]] = field(default_factory=list)
    ended: list[decode_pb2.Ended] = field(default_factory=list)
    local_prefills: list[decode_pb2.LocalPrefill] = field(default_factory=list)
    preempted: list[int] = field(default_factory=list)
    urgent: set[int] = field(default_factory=set)
    """Reservations of which something is not to wait for later steps: they begin or end."""

    def __len__(self) -> int:
        return len(self.reservations) + len(self.ended) + len(self.preempted)

    def append(self, reservation: int, index: int, token: SampledToken) -> None:
        if token.logprob is not None:
            self.logprobs.append((len(self.reservations), token))
        self.reservations.append(reservation)
        self.indices.append(index)
        self.token_ids.append(token.token_id)

    def end(self, reservation: int, reason: common_pb2.FinishReason) -> None:
        self.ended.append(decode_pb2.Ended(reservation=reservation, finish_reason=reason))
        self.urgent.add(reservation)

    def fail(self, reservation: int, error: str, *, refused: bool = False) -> None:
        """`refused`: the request itself is at fault."""
        ended = decode_pb2.Ended(reservation=reservation, error=error, refused=refused)
        self.ended.append(ended)
        self.urgent.add(reservation)

    def extend(self, later: "RouterRows") -> None:
        """Appends what a later step has."""
        shift = len(self.reservations)
        self.logprobs.extend((row + shift, token) for row, token in later.logprobs)
        self.reservations.extend(later.reservations)
        self.indices.extend(later.indices)
        self.token_ids.extend(later.token_ids)
        self.ended.extend(later.ended)
        self.local_prefills.extend(later.local_prefills)
        self.preempted.extend(later.preempted)
        self.urgent |= later.urgent

    def part(self, *, urgent: bool) -> "RouterRows":
        """What there is about urgent reservations, or about the others."""
        rows = [
            row for row, each in enumerate(self.reservations) if (each in self.urgent) is urgent
        ]
        places = {row: place for place, row in enumerate(rows)}
        return RouterRows(
            reservations=[self.reservations[row] for row in rows],
            indices=[self.indices[row] for row in rows],
            token_ids=[self.token_ids[row] for row in rows],
            logprobs=[(places[row], token) for row, token in self.logprobs if row in places],
            ended=self.ended if urgent else [],
            local_prefills=self.local_prefills if urgent else [],
            preempted=[each for each in self.preempted if (each in self.urgent) is urgent],
        )

    def to_wire(self) -> decode_pb2.TokenBatch:
        return decode_pb2.TokenBatch(
            reservations=self.reservations,
            indices=self.indices,
            token_ids=self.token_ids,
            logprobs=[
                decode_pb2.RowLogprobs(
                    row=row, logprobs=logprobs_to_wire(token.logprob or 0.0, token.top_logprobs)
                )
                for row, token in self.logprobs
            ],
            ended=self.ended,
            local_prefills=self.local_prefills,
            preempted=self.preempted,
        )
