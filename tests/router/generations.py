"""Generations and placements made by hand, for tests of one piece of a request's life."""

import math
from collections.abc import Sequence

from lengthwise_policy.placement.placement import Candidate, Placement
from lengthwise_policy.types import WorkerId
from lengthwise_router.serving.deadline import RequestDeadline
from lengthwise_router.serving.generation import Generation
from lengthwise_router.serving.records import RequestRecord
from lengthwise_router.text.request import Request
from lengthwise_router.workers.wakeup import Wakeups
from lengthwise_wire.v1 import common_pb2


def make_generation(
    name: str = "r1",
    *,
    prompt_ids: Sequence[int] = (1,) * 8,
    max_tokens: int = 4,
    priority: int = 0,
    tenant: str = "",
    stop_token_ids: tuple[int, ...] = (),
    wakeups: Wakeups | None = None,
) -> Generation:
    """A request that waits for ever, and whose stream needs no keepalive."""

    async def keepalive() -> None:
        raise AssertionError("no test waits so long")

    request = Request(
        request_id=name,
        sampling=common_pb2.SamplingParams(),
        needs=frozenset(),
        top_logprobs=None,
        stop_strings=(),
        stop_token_ids=stop_token_ids,
        max_tokens=max_tokens,
        resumed_token_ids=(),
        priority=priority,
        tenant=tenant,
        cache_salt=b"",
        conversation_returns=False,
        constraint=None,
        is_chat=False,
        has_tools=False,
    )
    return Generation(
        request=request,
        prompt_ids=list(prompt_ids),
        max_tokens=max_tokens,
        deadline=RequestDeadline(
            wakeup=(wakeups or Wakeups()).new(),
            seconds=math.inf,
            keepalive_seconds=60.0,
            keepalive=keepalive,
        ),
        record=RequestRecord(request_id=name, tenant=tenant, model="stub", priority=priority),
    )


def placement(*residuals: int) -> Placement:
    """On p1 and d1; `residuals` are those of p1, p2 and so on."""
    return Placement(
        prefill=WorkerId("p1"),
        decode=WorkerId("d1"),
        rule="predicted ttft",
        reason="predicted ttft: 3 ms",
        candidates=tuple(
            Candidate(
                prefill=WorkerId(f"p{index}"),
                decode=WorkerId("d1"),
                residual_tokens=residual,
                queue_seconds=1.0,
                prefill_seconds=2.0,
                transfer_seconds=0.5,
            )
            for index, residual in enumerate(residuals, 1)
        ),
    )
