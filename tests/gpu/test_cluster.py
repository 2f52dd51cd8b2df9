"""A prefill and a decode worker on one GPU exchange KV over NCCL."""

import pytest

import lengthwise
from lengthwise.local import LocalCluster

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(240)]


async def test_kv_moves_over_nccl_between_two_processes() -> None:
    """NCCL refuses two ranks on one device unless each process claims to be a host of its own."""
    cluster = LocalCluster(
        device="cuda",
        configs={"prefill": {"num_blocks": 1024}, "decode": {"num_blocks": 1024}},
        start_seconds=180,
    )
    with cluster:
        async with lengthwise.AsyncClient(cluster.endpoint) as client:
            one = await client.generate("def read(path):\n", max_tokens=32, temperature=0)
            again = await client.generate("def read(path):\n", max_tokens=32, temperature=0)
    assert one.token_ids == again.token_ids
    assert one.usage.output_tokens == 32
