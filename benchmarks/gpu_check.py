"""The standing command for a machine with an NVIDIA GPU: its tests, then each kernel against what a
user would run in its place, then prefill and decode of the engine with random weights at a real
model's shape. Rows carry the GPU's name.

Ends with exit code 2 where torch finds no GPU.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from gpu_check_case import Sizes, disagreement, milliseconds
from gpu_check_kernels import cases
from rows import append_rows
from transformers import AutoModelForCausalLM, Qwen2Config

from lengthwise_engine.loading import LoadedModel, load_runner
from lengthwise_engine.runner import SequenceChunk
from lengthwise_engine.sampler import Sampling, SamplingState

TOLERANCE = 2e-2
"""Between two results in bfloat16, whose last place is worth 2^-8."""

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


def kernel_rows() -> Iterator[dict[str, object]]:
    """Every kernel and its rivals, and how much of what the GPU can do they reach.

    Errors: RuntimeError when a kernel and a rival disagree.
    """
    for case in cases(Sizes(), "cuda", torch.bfloat16):
        if (ratio := disagreement(case)) > TOLERANCE:
            raise RuntimeError(f"{case.op} {case.shape}: differs from a rival by {ratio:.2g}")
        runs = {"lengthwise": case.ours, **case.rivals}
        for name, run in runs.items():
            captured = name == "lengthwise" or not case.rivals_ask_the_host
            low, median, high = milliseconds(run, captured=captured)
            reached = case.ceiling_seconds * 1e3 / median
            print(f"{case.op:24} {case.shape:36} {name:16} {median:9.4f} ms {reached:6.1%}")
            yield {
                "gpu": torch.cuda.get_device_name(),
                "torch": torch.__version__,
                "triton": triton.__version__,
                "op": case.op,
                "shape": case.shape,
                "implementation": name,
                "p20_ms": f"{low:.4f}",
                "p50_ms": f"{median:.4f}",
                "p80_ms": f"{high:.4f}",
                "gigabytes_per_second": f"{case.num_bytes / median / 1e6:.0f}",
                "teraflops_per_second": f"{case.flops / median / 1e9:.1f}",
                "ceiling_ms": f"{case.ceiling_seconds * 1e3:.4f}",
                "share_of_ceiling": f"{reached:.3f}",
            }


def engine_rows() -> Iterator[dict[str, object]]:
    """Prefill and decode steps of the engine."""
    with tempfile.TemporaryDirectory() as folder:
        model = load_runner(
            random_checkpoint(Path(folder)), device="cuda", num_blocks=10_240, kv_memory_bytes=0
        )
    chunked = [("prefill", n, [chunk(n, 0, 0)]) for n in PREFILL_TOKENS]
    chunked += [
        ("decode", batch, [chunk(1, DECODE_CONTEXT, 66 * row) for row in range(batch)])
        for batch in DECODE_BATCHES
    ]
    for phase, size, chunks in chunked:
        seconds = seconds_of(model, chunks)
        num_tokens = sum(len(c.token_ids) for c in chunks)
        print(f"{phase:8} {size:6} {seconds * 1e3:9.2f} ms {num_tokens / seconds:12.0f} tokens/s")
        yield {
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


def main() -> None:
    if not torch.cuda.is_available():
        print("gpu-check needs an NVIDIA GPU; torch finds none", file=sys.stderr)
        sys.exit(2)
    tests = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu"], cwd=tests, check=True)
    print(append_rows("gpu_kernels", list(kernel_rows())))
    print(append_rows("gpu_engine", list(engine_rows())))


if __name__ == "__main__":
    main()
