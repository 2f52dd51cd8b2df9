"""The standing command for a machine with an NVIDIA GPU: its tests, then prefill and decode rows of
the engine with random weights at a real model's shape, with the GPU's name.

Ends with exit code 2 where torch finds no GPU.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rows import append_rows
from transformers import AutoModelForCausalLM, Qwen2Config

from lengthwise_engine.loading import LoadedModel, load_runner
from lengthwise_engine.runner import SequenceChunk
from lengthwise_engine.sampler import Sampling, SamplingState

REPEATS = 5
PREFILL_TOKENS = (512, 2048, 8192)
DECODE_BATCHES = (1, 32, 128)
DECODE_CONTEXT = 1024
# Qwen2.5-0.5B.
SHAPE = Qwen2Config(
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    max_position_embeddings=32_768,
    tie_word_embeddings=True,
)


def random_checkpoint(folder: Path) -> Path:
    """Random bfloat16 weights of SHAPE."""
    torch.manual_seed(0)
    make_model: Callable[..., Any] = AutoModelForCausalLM.from_config
    make_model(SHAPE, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def chunk(num_tokens: int, start: int, first_block: int) -> SequenceChunk:
    """`num_tokens` tokens after `start` of a sequence whose blocks begin at `first_block`."""
    tokens = [(7 * i) % 1000 for i in range(start + num_tokens)]
    state = SamplingState(
        sampling=Sampling(temperature=0.0), token_ids=tokens, num_prompt_tokens=len(tokens)
    )
    blocks = range(first_block, first_block + len(tokens) // 16 + 1)
    return SequenceChunk(token_ids=tokens[start:], start=start, block_ids=blocks, sampling=state)


def seconds_of(model: LoadedModel, chunks: list[SequenceChunk]) -> float:
    """Median of REPEATS runs after two to warm up."""
    taken = []
    for _ in range(REPEATS + 2):
        torch.cuda.synchronize()
        started_at = time.perf_counter()
        model.runner.run(chunks)
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started_at)
    return sorted(taken[2:])[REPEATS // 2]


def main() -> None:
    if not torch.cuda.is_available():
        print("gpu-check needs an NVIDIA GPU; torch finds none", file=sys.stderr)
        sys.exit(2)
    tests = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu"], cwd=tests, check=True)
    with tempfile.TemporaryDirectory() as folder:
        model = load_runner(
            random_checkpoint(Path(folder)), device="cuda", num_blocks=10_240, kv_memory_bytes=0
        )
    cases = [("prefill", n, [chunk(n, 0, 0)]) for n in PREFILL_TOKENS]
    cases += [
        ("decode", batch, [chunk(1, DECODE_CONTEXT, 66 * row) for row in range(batch)])
        for batch in DECODE_BATCHES
    ]
    rows = []
    for phase, size, chunks in cases:
        seconds = seconds_of(model, chunks)
        num_tokens = sum(len(c.token_ids) for c in chunks)
        print(f"{phase:8} {size:6} {seconds * 1e3:9.2f} ms {num_tokens / seconds:12.0f} tokens/s")
        rows.append(
            {
                "gpu": torch.cuda.get_device_name(),
                "torch": torch.__version__,
                "shape": "Qwen2.5-0.5B, random bfloat16",
                "phase": phase,
                "size": size,
                "context": 0 if phase == "prefill" else DECODE_CONTEXT,
                "repeats": REPEATS,
                "median_ms": f"{seconds * 1e3:.3f}",
                "tokens_per_second": f"{num_tokens / seconds:.0f}",
            }
        )
    print(append_rows("gpu_engine", rows))


if __name__ == "__main__":
    main()
