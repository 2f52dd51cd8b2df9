"""The values that labels of the router's metrics take, each of a fixed set."""

from typing import Literal, get_args

from grpc import StatusCode

from lengthwise_policy.types import Role

CODES = tuple(code.name for code in StatusCode)
"""How a request ended."""

ROLES: tuple[Role, ...] = get_args(Role)

Condition = Literal["connecting", "ready", "draining", "stalled", "lost", "incompatible"]
"""Of a worker; see `workers.worker`."""

CONDITIONS: tuple[Condition, ...] = get_args(Condition)

Phase = Literal["reserve", "prefill", "transfer", "decode"]
"""Of an attempt; see `serving.attempt`."""

PHASES: tuple[Phase, ...] = get_args(Phase)

LossReason = Literal["stream_broken", "silent", "stalled", "closed"]
"""Why a worker was given up."""

LOSS_REASONS: tuple[LossReason, ...] = get_args(LossReason)

StreamFailure = Literal["gap", "ended_with_error", "malformed", "refused"]
"""What was wrong with a decode worker's tokens."""

CallFailure = Literal[
    "rpc_error", "timeout", "overloaded", "crowded", "stale", "transfer_failed", "wrong_end"
]

FailureReason = LossReason | StreamFailure | CallFailure
"""Why an attempt failed."""

FAILURE_REASONS: tuple[FailureReason, ...] = (
    *get_args(LossReason),
    *get_args(StreamFailure),
    *get_args(CallFailure),
)

DiscoveryFailure = Literal["forbidden", "refused", "unreachable", "malformed"]
"""Why Kubernetes did not name the workers."""

DISCOVERY_FAILURES: tuple[DiscoveryFailure, ...] = get_args(DiscoveryFailure)
