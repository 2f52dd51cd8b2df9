"""A KV cache smaller than the model's context: what can fit is answered to the last block, what
never can is refused at once and says so, and no length given means what fits."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from faults.checkpoints import answer_by
from faults.processes import Serve
from harness.waiting import eventually
from router.deployment import Deployment
from workers.worker_pair import greedy_tokens

import lengthwise
import lengthwise_local
from lengthwise_decode_worker.config import DecodeWorkerConfig
from lengthwise_engine.errors import EngineError
from lengthwise_local import LocalCluster
from lengthwise_runtime.config import ConfigError, load_config
from lengthwise_wire.v1 import common_pb2, inference_pb2
from lengthwise_worker.engine import start_engine

pytestmark = pytest.mark.timeout(180)  # whole clusters start

DECODE_BLOCKS, PREFILL_BLOCKS = 8, 6
CAPACITY = 16 * DECODE_BLOCKS
PROMPT = [97 + index * 7 % 26 for index in range(255)]


async def small(serve: Serve, checkpoint: Path, **config: Any) -> Deployment:
    """Stub workers that tell of so many blocks; the context is 512 tokens."""
    deployment = await serve(checkpoint, no_worker_seconds=10.0, **config)
    deployment.decode[0].blocks_total = DECODE_BLOCKS
    deployment.prefill[0].blocks_total = PREFILL_BLOCKS
    views = deployment.served.workers.views

    def are_seen() -> bool:
        """In whatever order they were found."""
        return all(any(view.capacity_tokens <= CAPACITY for view in role) for role in views())

    await eventually(are_seen)
    return deployment


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_prompt_tokens", "max_tokens", "local"),
    [
        pytest.param(40, 100, True, id="with its output"),
        pytest.param(150, 1, True, id="alone"),
        pytest.param(100, 8, False, id="at any prefill worker"),
    ],
)
async def test_what_can_never_fit_is_refused_at_once(
    toy: Path, serve: Serve, num_prompt_tokens: int, max_tokens: int, local: bool
) -> None:
    deployment = await small(serve, toy, local_prefill=local)
    prompt = PROMPT[:num_prompt_tokens]
    error = await deployment.refused(prompt=prompt, max_tokens=max_tokens, seconds=5.0)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "tokens of KV" in error.details()
    model = await deployment.stub.GetModel(inference_pb2.GetModelRequest(), timeout=5)
    assert model.capacity_tokens == CAPACITY


async def test_without_prefill_workers_one_token_is_refused_at_once_too(
    toy: Path, serve: Serve
) -> None:
    deployment = await serve(toy, num_prefill=0, no_worker_seconds=10.0, local_prefill=True)
    deployment.decode[0].blocks_total = DECODE_BLOCKS
    views = deployment.served.workers.views
    await eventually(lambda: [view.capacity_tokens for view in views()[1]] == [CAPACITY])
    error = await deployment.refused(prompt=PROMPT[:150], max_tokens=1, seconds=5.0)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"holds {CAPACITY} tokens of KV" in error.details()


async def test_what_only_the_larger_of_two_workers_holds_goes_there(
    toy: Path, serve: Serve
) -> None:
    deployment = await serve(toy, num_decode=2, no_worker_seconds=10.0, local_prefill=True)
    deployment.decode[0].blocks_total = DECODE_BLOCKS
    views = deployment.served.workers.views
    await eventually(lambda: min(view.capacity_tokens for view in views()[1]) == CAPACITY)
    answer = await deployment.generate(prompt=PROMPT[:100], max_tokens=60, seconds=10.0)
    assert answer.last.finish_reason
    assert not deployment.decode[0].reserves


@pytest.mark.slow
async def test_a_larger_worker_that_is_away_is_waited_for(toy: Path, serve: Serve) -> None:
    deployment = await serve(toy, num_decode=2, no_worker_seconds=10.0, local_prefill=True)
    deployment.decode[0].blocks_total = DECODE_BLOCKS
    await deployment.decode[1].stop()
    views = deployment.served.workers.views
    await eventually(lambda: [view.capacity_tokens for view in views()[1]] == [CAPACITY])
    error = await deployment.refused(prompt=PROMPT[:100], max_tokens=60, seconds=0.5)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "too small" in error.details()


@pytest.mark.slow
async def test_without_max_tokens_the_output_is_what_fits(toy: Path, serve: Serve) -> None:
    deployment = await small(serve, toy)
    answer = await deployment.generate(prompt=PROMPT[:40])
    assert 0 < len(answer.token_ids) <= CAPACITY - 40 + 1
    assert answer.last.finish_reason == common_pb2.FINISH_REASON_LENGTH


async def test_without_max_tokens_the_largest_worker_of_now_decides(
    toy: Path, serve: Serve
) -> None:
    deployment = await small(serve, toy, num_decode=2)
    views = deployment.served.workers.views
    assert max(view.capacity_tokens for view in views()[1]) > CAPACITY
    await deployment.decode[1].stop()
    await eventually(lambda: [view.capacity_tokens for view in views()[1]] == [CAPACITY])
    answer = await deployment.generate(prompt=PROMPT[:40], request_id="open", seconds=5.0)
    assert len(answer.token_ids) == CAPACITY - 40 + 1
    async with lengthwise.AsyncClient(str(deployment.app.address)) as client:
        assert (await client.explain("open")).max_tokens == CAPACITY - 40 + 1


async def test_without_max_tokens_a_least_number_that_does_not_fit_is_refused(
    toy: Path, serve: Serve
) -> None:
    deployment = await small(serve, toy)
    sampling = common_pb2.SamplingParams(min_tokens=CAPACITY)
    error = await deployment.refused(prompt=PROMPT[:40], sampling=sampling, seconds=5.0)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{CAPACITY} tokens of KV" in error.details()


@pytest.mark.slow
async def test_a_deadline_in_a_later_attempt_keeps_the_reason_of_the_one_before(
    toy: Path, serve: Serve
) -> None:
    deployment = await serve(toy, max_attempts=1, prefill_timeout_seconds=60.0)
    prefill = deployment.prefill[0]
    prefill.error = lengthwise.InternalError("the disk is on fire")

    async def hang() -> None:
        await eventually(lambda: prefill.requests)
        prefill.error, prefill.hangs = None, True

    hanging = asyncio.create_task(hang())
    async with lengthwise.AsyncClient(str(deployment.app.address)) as client:
        with pytest.raises(lengthwise.DeadlineExceeded) as caught:
            await client.generate("once", max_tokens=2, timeout=1.0)
    await hanging
    assert "the disk is on fire" in str(caught.value)


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama", max_position_embeddings=256)


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[lengthwise.Client]:
    """Of a real cluster with such caches; a test leaves its workers alive."""
    with (
        LocalCluster(
            model=model,
            device="cpu",
            configs={
                "decode": {"num_blocks": DECODE_BLOCKS},
                "prefill": {"num_blocks": PREFILL_BLOCKS},
            },
        ) as cluster,
        lengthwise.Client(cluster.endpoints) as client,
    ):
        yield client
        assert all(process.running for process in cluster.processes)


@pytest.mark.slow
def test_what_fits_is_answered_to_the_last_block(client: lengthwise.Client, model: Path) -> None:
    for num_prompt_tokens, max_tokens in ((40, 8), (40, 89), (100, 8), (120, 8), (127, 1)):
        prompt = PROMPT[:num_prompt_tokens]
        answer = client.generate(
            prompt, max_tokens=max_tokens, temperature=0, ignore_eos=True, timeout=10.0
        )
        (truth,) = greedy_tokens(model, [prompt], max_tokens)
        assert list(answer.token_ids) == truth, (num_prompt_tokens, max_tokens)


@pytest.mark.slow
def test_a_temperature_too_small_to_divide_by_is_greedy_or_refused(
    client: lengthwise.Client,
) -> None:
    prompt = PROMPT[:40]
    greedy = client.generate(prompt, max_tokens=8, temperature=0, timeout=10.0)
    with contextlib.suppress(lengthwise.InvalidRequest):
        answer = client.generate(prompt, max_tokens=8, temperature=1e-39, timeout=10.0)
        assert answer.token_ids == greedy.token_ids


@pytest.mark.slow
def test_up_serves_a_model_whose_context_exceeds_the_default_cache(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """The KV shape of Qwen2.5-0.5B, of whose 32,768 tokens the default 512 MiB hold 21,845."""
    shape = {"num_hidden_layers": 24, "num_attention_heads": 2, "head_dim": 64}
    folder = make_checkpoint(
        "llama", **shape, num_key_value_heads=2, hidden_size=32, max_position_embeddings=32768
    )
    answer_by(folder, {ord("x"): ord("o"), ord("o"): ord("k"), ord("k"): 257})
    done = subprocess.run(
        [
            *(sys.executable, "-c", "import lengthwise_cli.main as cli; cli.main()"),
            *("up", "--model", str(folder), "--port", "0", "--device", "cpu"),
            *("--prefill", "1", "--decode", "1", "--once", "--say", "x"),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert "ok" in done.stdout


@pytest.mark.slow
def test_a_worker_under_a_small_limit_serves_what_it_holds_and_tells_so(model: Path) -> None:
    """As in a container of 640 MiB, of which the processes themselves take most."""
    limit = {"memory_share": 0.9, "memory_bytes": 640 << 20}
    with (
        LocalCluster(
            model=model,
            device="cpu",
            configs={"decode": {**limit, "max_context": 200}, "prefill": limit},
        ) as cluster,
        lengthwise.Client(cluster.endpoints) as client,
    ):
        assert client.generate("once", max_tokens=2).token_ids
        told = client.model()
        assert (told.context_length, told.capacity_tokens) == (200, 199)
        answer = client.generate(
            PROMPT[:150], max_tokens=50, temperature=0, ignore_eos=True, timeout=10.0
        )
        (truth,) = greedy_tokens(model, [PROMPT[:150]], 50)
        assert list(answer.token_ids) == truth
        assert len(client.generate(PROMPT[:150], ignore_eos=True).token_ids) == 50
        with pytest.raises(lengthwise.PromptTooLong, match="200 tokens in all"):
            client.generate(PROMPT[:150], max_tokens=51, timeout=10.0)
        log = cluster.decode[0].log_tail(200)
        assert "MiB of KV cache" in log
        assert "a request has up to 200" in log


@pytest.mark.slow
def test_memory_that_cannot_be_had_ends_a_worker_with_one_line(model: Path) -> None:
    cluster = LocalCluster(model=model, device="cpu", configs={"decode": {"max_context": 15}})
    with pytest.raises(lengthwise_local.LocalClusterError, match="got 15") as caught, cluster:
        pass
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        pytest.param({"memory_bytes": 100 << 20}, "may take 90 MiB, but", id="too little"),
        pytest.param({"max_context": 15}, "max_context: got 15, expected 16", id="no block"),
        pytest.param({"max_context": 257}, "expected 16 .one block. to 256", id="beyond the model"),
        pytest.param(
            {"kv_memory_bytes": 1 << 20, "num_blocks": 9}, "set one of them, or none", id="both"
        ),
        pytest.param({"memory_share": 0}, "memory_share must be above 0, at most 1", id="no share"),
        pytest.param({"memory_share": 1.01}, "memory_share must be above 0, at most 1", id="above"),
    ],
)
async def test_memory_that_cannot_be_had_is_told_before_weights_are_loaded(
    model: Path, tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    path = tmp_path / "worker.yaml"
    path.write_text(yaml.safe_dump({"model": str(model), "device": "cpu", **keys}))
    with pytest.raises((ConfigError, EngineError), match=message):
        await start_engine(load_config(path, DecodeWorkerConfig))
