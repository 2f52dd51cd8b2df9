"""Equal seeds give equal tokens, whatever of a prompt is cached where it is computed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from workers.worker_pair import worker_pair

NUM_TOKENS = 12
SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
"""As SmolLM2-135M, but for the number of layers: in smaller products rounding rarely shows."""


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_in_bfloat16_a_prompt_of_which_all_but_a_token_is_cached_is_answered_as_before(
    make_checkpoint: Callable[..., Path],
) -> None:
    prompts = [
        [97 + (index * (7 + number) + number * number) % 26 for index in range(length)]
        for number, length in enumerate((17, 33, 49) * 4)
    ]
    async with worker_pair(make_checkpoint("llama", **SHAPE), dtype="bfloat16") as router:
        fresh = [await router.generate(prompt, NUM_TOKENS) for prompt in prompts]
        cached = [await router.generate(prompt, NUM_TOKENS) for prompt in prompts]
    assert set(router.cached.values()) == {0, 16, 32, 48}
    assert cached == fresh
