"""The engine on a GPU says what it says on a CPU, and its cache is one memory in two processes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness.lora.adapters import write_adapter

from lengthwise_engine.errors import CacheSizeError
from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.loaded_model import load_runner
from lengthwise_engine.models.adapters.room import NO_ADAPTERS, AdapterSettings
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

LAYOUT = KVLayout(num_layers=2, num_kv_heads=2, head_dim=8, block_size=16, dtype="float32")


def _greedy(
    folder: Path,
    device: str,
    prompt: list[int],
    count: int,
    adapters: AdapterSettings = NO_ADAPTERS,
) -> list[int]:
    """With the first of `adapters`, if there are any."""
    loaded = load_runner(
        folder,
        device=device,
        num_blocks=64,
        kv_memory_bytes=0,
        dtype=torch.float32,
        adapters=adapters,
    )
    tokens = list(prompt)
    state = SamplingState(
        sampling=SamplingParameters(temperature=0.0),
        token_ids=tokens,
        num_prompt_tokens=len(prompt),
    )
    start = 0
    for _ in range(count):
        chunk = SequenceChunk(
            token_ids=tokens[start:],
            start=start,
            block_ids=range(64),
            sampling=state,
            adapter=0 if adapters else None,
        )
        (sampled,) = loaded.runner.run([chunk])
        assert sampled is not None
        start = len(tokens)
        tokens.append(sampled.token_id)
    return tokens[len(prompt) :]


@pytest.mark.parametrize(
    "variant", ["llama-3.1", "mistral-window", "qwen2", "qwen3", "qwen3_moe", "mixtral"]
)
def test_greedy_tokens_are_those_of_the_cpu(
    make_checkpoint: Callable[..., Path], variant: str
) -> None:
    prompt = [(5 * i + i * i) % 300 for i in range(200)]
    folder = make_checkpoint(variant)
    assert _greedy(folder, "cuda", prompt, 16) == _greedy(folder, "cpu", prompt, 16)


def test_greedy_tokens_of_an_adapter_are_those_of_the_cpu(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    prompt = [(5 * i + i * i) % 300 for i in range(200)]
    folder = make_checkpoint("qwen3")
    adapters = AdapterSettings(folders={"one": write_adapter(tmp_path, folder, seed=1)})
    expected = _greedy(folder, "cpu", prompt, 16, adapters)
    assert _greedy(folder, "cuda", prompt, 16, adapters) == expected
    assert _greedy(folder, "cuda", prompt, 16) != expected


def test_a_layer_is_announced_after_it_was_computed(make_checkpoint: Callable[..., Path]) -> None:
    loaded = load_runner(make_checkpoint("llama"), device="cuda", num_blocks=64, kv_memory_bytes=0)
    seen = []
    state = SamplingState(
        sampling=SamplingParameters(temperature=0.0), token_ids=[1] * 512, num_prompt_tokens=512
    )
    chunk = SequenceChunk(token_ids=[1] * 512, start=0, block_ids=range(64), sampling=state)
    other = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def on_layer(layer: int) -> None:
        with torch.cuda.stream(other):
            seen.append(bool(loaded.cache.tensor[layer, :32].abs().sum(dim=(1, 2, 3, 4)).all()))

    loaded.runner.run([chunk], on_layer)
    assert seen == [True] * loaded.cache.layout.num_layers


def test_another_process_maps_the_very_memory() -> None:
    cache = KVCache.allocate(LAYOUT, 3, torch.device("cuda"))
    cache.tensor[1, 2] = 7.0
    torch.cuda.synchronize()
    shared = cache.share()
    program = (
        "import sys, torch\n"
        "from lengthwise_engine.kv.cache import KVCache, SharedKV\n"
        "from lengthwise_engine.kv.layout import KVLayout\n"
        "layout = KVLayout(num_layers=2, num_kv_heads=2, head_dim=8, block_size=16,"
        " dtype='float32')\n"
        "shared = SharedKV(num_bytes=int(sys.argv[1]), cuda_handle=sys.argv[2])\n"
        "cache = KVCache.attach(layout, 3, shared)\n"
        "assert cache.tensor[1, 2].eq(7.0).all()\n"
        "cache.tensor[0, 1] = 5.0\n"
        "torch.cuda.synchronize()\n"
    )
    assert shared.cuda_handle is not None
    subprocess.run(
        [sys.executable, "-c", program, str(shared.num_bytes), shared.cuda_handle],
        check=True,
        timeout=120,
    )
    assert cache.tensor[0, 1].eq(5.0).all()


def test_a_cache_that_does_not_fit_says_how_many_blocks_would() -> None:
    with pytest.raises(CacheSizeError, match="at most"):
        KVCache.allocate(LAYOUT, 1 << 34, torch.device("cuda"))
