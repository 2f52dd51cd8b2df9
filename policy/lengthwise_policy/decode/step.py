"""One step of a decode worker."""

from dataclasses import dataclass
from typing import Literal

from lengthwise_policy.types import PromptChunk, RequestId

StepRule = Literal["decode", "mixed", "preempt"]
"""Tokens only; chunks of prompts too; requests gave their blocks up for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStep:
    """One decode step: requests that get one token each, and chunks of prompts computed here.

    `chunks` are local prefills, and sequences computed again after a preemption; a chunk that is
    the last of its sequence gives a token too.
    """

    request_ids: tuple[RequestId, ...]  # most senior first
    chunks: tuple[PromptChunk, ...] = ()
    preempted: tuple[RequestId, ...] = ()  # lost their blocks while the step was planned
    rule: StepRule
    reason: str  # the rule, and the numbers behind it
