"""What scheduling knows of a GPU: how long a step takes. All profiles look alike to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from lengthwise_policy.cost.fit import CostFit, StepSample
from lengthwise_policy.cost.model import CostModel

Chunk = tuple[int, int]
"""Prompt tokens to compute, and tokens of the same prompt before them."""


class CostProfile(Protocol):
    """Of one worker, whatever GPUs it is made of."""

    def step_seconds(self, chunks: Sequence[Chunk], requests: int, context: int) -> float:
        """Of a step that computes `chunks` of prompts and a token for each of `requests`, whose
        contexts have `context` tokens in all; of nothing, 0 or more."""


@dataclass(frozen=True, slots=True)
class LinearCosts:
    """Steps that take what the policies' own cost model says; see `calibrate`."""

    model: CostModel

    def step_seconds(self, chunks: Sequence[Chunk], requests: int, context: int) -> float:
        seconds = self.model.decode_step_seconds(requests, context)
        for new, history in chunks:
            seconds += self.model.chunk_seconds(new, history)
        return seconds


SAMPLES = 400


def measured_by_workers(
    profile: CostProfile, *, longest_prompt: int, most_requests: int, chunk_tokens: int
) -> CostFit:
    """What a worker with these costs will have fitted after some hundred steps of all kinds.

    Simulated workers begin with it, and keep it: their steps never take anything else. A prefill
    worker's has no requests that decode: `most_requests` is 0.
    """
    random = Random(0)
    fit = CostFit(refit_every=SAMPLES)
    for number in range(SAMPLES):
        prompt = int(longest_prompt ** random.random())
        done = 0 if number % 2 else int(random.random() * (longest_prompt - prompt))
        new = min(max(prompt, 1), chunk_tokens)
        requests = int(max(most_requests, 1) ** random.random())
        context = int(requests * random.uniform(0.1, 1.0) * longest_prompt)
        if number % 4 < 2 or not most_requests:
            requests = context = 0
        elif number % 4 == 2:
            new = done = 0
        chunks = [(new, done)] if new else []
        fit.observe(
            StepSample(
                seconds=profile.step_seconds(chunks, requests, context),
                new_tokens=new,
                attention=new * (new + 2 * done),
                history=done,
                decode_requests=requests,
                decode_context=context,
            )
        )
    return fit
