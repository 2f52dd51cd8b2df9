"""A prefill and a decode worker on one GPU exchange KV, through its memory and over NCCL."""

import pytest

import lengthwise
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize(
    ("shared_memory", "path"), [(True, "is up: shared memory"), (False, "is up: nccl")], ids=str
)
async def test_kv_moves_between_two_processes_on_one_gpu(shared_memory: bool, path: str) -> None:
    config = {"num_blocks": 1024, "shared_memory": shared_memory}
    cluster = LocalCluster(
        device="cuda",
        configs={"prefill": config, "decode": config},
        start_seconds=180,
    )
    with cluster:
        async with lengthwise.AsyncClient(cluster.endpoint) as client:
            one = await client.generate("def read(path):\n", max_tokens=32, temperature=0)
            again = await client.generate("def read(path):\n", max_tokens=32, temperature=0)
        assert path in cluster.prefill[0].log_path.read_text(encoding="utf-8")
    assert one.token_ids == again.token_ids
    assert one.usage.output_tokens == 32
