"""What computing the prompt of n choices once gains: output tokens per second.

Run `python -m steps.choices`; it appends to benchmarks/data/choices.csv. One prefill and one decode
worker with random weights, two callers at once, each with a prompt of 1,024 tokens that it wants 8
completions of 32 tokens of. In each round they ask in every way, in an order drawn: as `n` of one
request; as requests that may share what is cached (`cached`), sent at once; and as requests that
share nothing (`apart`: a salt each). `computed` are the prompt tokens that both workers computed
for a caller.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

from random_llama import random_llama
from rows import append_rows

import lengthwise
from lengthwise_local import LocalCluster

PROMPT_TOKENS, OUTPUT_TOKENS, CHOICES, CALLERS = 1024, 32, 8, 2
WAYS = ("n", "cached", "apart")
LAYERS, HIDDEN = 8, 768
SETTLE_SECONDS = 1.2
"""Two heartbeats: statuses tell what was computed."""


async def computed(client: lengthwise.AsyncClient) -> int:
    await asyncio.sleep(SETTLE_SECONDS)
    return sum(worker.prompt_tokens_total for worker in (await client.status()).workers)


async def ask(client: lengthwise.AsyncClient, way: str, prompt: list[int], name: str) -> None:
    """All completions in one of the ways."""
    asked: dict[str, Any] = {"max_tokens": OUTPUT_TOKENS, "ignore_eos": True}
    if way == "n":
        completion = await client.generate(prompt, n=CHOICES, seed=1, cache_salt=name, **asked)
        completions = completion.choices
    else:
        salts = [f"{name} {i}" if way == "apart" else name for i in range(CHOICES)]
        completions = tuple(
            await asyncio.gather(
                *(
                    client.generate(prompt, seed=1 + i, cache_salt=salt, **asked)
                    for i, salt in enumerate(salts)
                )
            )
        )
    assert [len(each.tokens) for each in completions] == [OUTPUT_TOKENS] * CHOICES


async def measured(endpoint: str, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds and prompt tokens computed of each way, by round."""
    random = Random(1)
    results: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    async with lengthwise.AsyncClient(endpoint) as client:
        await client.generate("to warm up", n=CHOICES, max_tokens=OUTPUT_TOKENS)
        for number in range(rounds):
            prompts = [random.choices(range(250), k=PROMPT_TOKENS) for _ in range(CALLERS)]
            for way in random.sample(WAYS, len(WAYS)):
                before = await computed(client)
                began_at = perf_counter()
                await asyncio.gather(
                    *(ask(client, way, prompt, f"{way} {number}") for prompt in prompts)
                )
                seconds = perf_counter() - began_at
                tokens = (await computed(client) - before) / CALLERS
                results[way].append((seconds, tokens))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        model = random_llama(Path(folder) / "llama", hidden=HIDDEN, layers=LAYERS)
        with LocalCluster(model=model, prefill=1, decode=1) as cluster:
            results = asyncio.run(measured(cluster.endpoint, rounds))
    apart = [seconds for seconds, _ in results["apart"]]
    rows = []
    for way, found in results.items():
        ratios = [slow / seconds for slow, (seconds, _) in zip(apart, found, strict=True)]
        rows.append(
            {
                "way": way,
                "choices": CHOICES,
                "callers": CALLERS,
                "prompt_tokens": PROMPT_TOKENS,
                "output_tokens": OUTPUT_TOKENS,
                "model": f"llama {LAYERS}x{HIDDEN} float32",
                "rounds": rounds,
                "tokens_per_second": round(
                    CALLERS * CHOICES * OUTPUT_TOKENS / median(seconds for seconds, _ in found), 1
                ),
                "ratio_to_apart": round(median(ratios), 2),
                "ratio_least": round(min(ratios), 2),
                "computed": round(median(tokens for _, tokens in found)),
            }
        )
    append_rows("choices", rows)


if __name__ == "__main__":
    main()
