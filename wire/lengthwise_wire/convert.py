"""Messages ⇄ policy values."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from lengthwise_policy.cost.model import CostModel
from lengthwise_policy.sampling import SamplingParameters
from lengthwise_policy.types import Role
from lengthwise_wire.sampling_parameters import SAMPLING_PARAMETERS
from lengthwise_wire.v1 import common_pb2, decode_pb2, prefill_pb2, worker_pb2

ROLES: dict[worker_pb2.Role, Role] = {
    worker_pb2.ROLE_PREFILL: "prefill",
    worker_pb2.ROLE_DECODE: "decode",
}
_COSTS = tuple(field.name for field in fields(CostModel))
ROLES_ON_WIRE = {role: number for number, role in ROLES.items()}


def sampling_to_wire(sampling: SamplingParameters) -> common_pb2.SamplingParams:
    """Sets every field, as workers expect."""
    values: dict[str, Any] = {name: getattr(sampling, name) for name in SAMPLING_PARAMETERS}
    return common_pb2.SamplingParams(**values)


def sampling_from_wire(
    request: prefill_pb2.PrefillRequest | decode_pb2.ReserveRequest,
) -> SamplingParameters:
    """Reads what a router sent: every field is set and was validated there."""
    params = request.sampling
    values: dict[str, Any] = {name: getattr(params, name) for name in SAMPLING_PARAMETERS}
    values["logit_bias"] = dict(params.logit_bias)
    return SamplingParameters(
        **values,
        top_logprobs=request.top_logprobs if request.HasField("top_logprobs") else None,
        stop_token_ids=frozenset(request.stop_token_ids),
        grammar=request.grammar,
    )


def logprobs_to_wire(logprob: float, top: Sequence[tuple[int, float]]) -> common_pb2.TokenLogprobs:
    return common_pb2.TokenLogprobs(
        logprob=logprob,
        top=[common_pb2.Logprob(token_id=token_id, logprob=value) for token_id, value in top],
    )


def cost_to_wire(cost: CostModel, num_samples: int) -> worker_pb2.CostModel:
    """A worker's fit, and the number of steps that it rests on."""
    return worker_pb2.CostModel(**asdict(cost), samples=num_samples)


def cost_from_wire(cost: worker_pb2.CostModel) -> CostModel:
    return CostModel(**{name: getattr(cost, name) for name in _COSTS})
