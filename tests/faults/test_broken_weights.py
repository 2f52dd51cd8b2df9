"""Weights that compute NaN, as a damaged copy's do, end in an error that says so, in no token."""

import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import torch
from decode_worker.decode_engine import SteppedEngine
from safetensors.torch import load_file, save_file
from workers.worker_pair import worker_pair

from lengthwise_engine.loaded_model import load_runner


@pytest.fixture
def broken(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    folder = shutil.copytree(make_checkpoint("llama"), tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_decode_worker_ends_the_request_and_keeps_nothing_of_it(broken: Path) -> None:
    engine = SteppedEngine(load_runner(broken, device="cpu", num_blocks=40, kv_memory_bytes=0))
    number = engine.ask([1, 2, 3], 5)
    engine.run()
    (ended,) = [
        ended for output in engine.outputs for rows in output.rows.values() for ended in rows.ended
    ]
    assert (ended.reservation, ended.finish_reason) == (number, 0)
    assert "NaN" in ended.error
    assert engine.tokens(number) == []
    engine.nothing_is_held()


@pytest.mark.slow
async def test_a_prefill_worker_refuses_the_request_and_serves_on(broken: Path) -> None:
    async with worker_pair(broken) as router:
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError, match="NaN") as caught:
                await router.generate([1, 2, 3], 5)
            assert caught.value.code() == grpc.StatusCode.INTERNAL
