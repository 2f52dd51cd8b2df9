"""The life of a request in a real deployment, as a user asks for it on the command line."""

import json
import subprocess
import sys
import uuid

import pytest

import lengthwise
from lengthwise_local import LocalCluster

pytestmark = pytest.mark.slow


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "lengthwise_cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def endpoints(cluster: LocalCluster) -> list[str]:
    return [argument for endpoint in cluster.endpoints for argument in ("-e", endpoint)]


def test_a_request_is_explained_whichever_router_served_it(cluster: LocalCluster) -> None:
    for endpoint in cluster.endpoints:
        generated = run(
            "generate", "once upon a time", "--max-tokens", "8", "--stats", "-e", endpoint
        )
        assert generated.returncode == 0, generated.stderr
        request_id = generated.stderr.split()[-1]
        life = run("explain", request_id, *endpoints(cluster))
        assert life.returncode == 0, life.stderr
        lines = life.stdout.splitlines()
        assert lines[0].split() == ["request", request_id]
        assert any(line.startswith("attempt 1") for line in lines)
        assert any(line.startswith("chosen") or " chosen " in line for line in lines)
        assert any(" actual " in f" {line} " for line in lines)
        assert any(line.startswith("end         OK after ") for line in lines)


async def test_predictions_and_what_came_of_them_stand_side_by_side(
    cluster: LocalCluster,
) -> None:
    async with lengthwise.AsyncClient(cluster.endpoints) as client:
        completion = await client.generate(
            [7] * 600, max_tokens=8, temperature=0, ignore_eos=True, tenant="t", priority=3
        )
        life = await client.explain(completion.request_id, tenant="t")
    assert life.end is not None
    assert life.end.code == "OK"
    assert life.end.timings == completion.timings
    assert life.end.cached_prompt_tokens == completion.usage.cached_prompt_tokens
    assert (life.prompt_tokens, life.output_tokens, life.priority) == (600, 8, 3)
    (attempt,) = life.attempts
    assert attempt.chosen is not None
    assert attempt.chosen.time_to_first_token_seconds > 0
    assert attempt.prefill_reason
    assert attempt.reserve_reason
    assert attempt.prefill_seconds > 0


async def test_a_prompt_that_comes_again_is_explained_as_cached(cluster: LocalCluster) -> None:
    prompt = [uuid.uuid4().int % 200] * 7 + list(range(200)) * 3
    async with lengthwise.AsyncClient(cluster.endpoint) as client:
        for _ in range(10):  # a router hears a little later which worker has the blocks
            completion = await client.generate(prompt, max_tokens=4, temperature=0, ignore_eos=True)
            if completion.usage.cached_prompt_tokens:
                break
        life = await client.explain(completion.request_id)
    assert completion.usage.cached_prompt_tokens >= 576
    assert life.end is not None
    assert life.end.cached_prompt_tokens == completion.usage.cached_prompt_tokens
    assert life.length_class == "short"


def test_json_is_one_whole_value(cluster: LocalCluster) -> None:
    generated = run("generate", "hello", "--max-tokens", "4", "--json", *endpoints(cluster))
    request_id = json.loads(generated.stdout)["request_id"]
    life = json.loads(run("explain", request_id, "--json", *endpoints(cluster)).stdout)
    assert life["request_id"] == request_id
    assert life["end"]["code"] == "OK"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ("explain", "unknown"), "request_id: got 'unknown', expected one", id="unknown"
        ),
        pytest.param(
            ("generate", "hi", "--priority", "101"), "priority: got 101, expected", id="priority"
        ),
        pytest.param(
            ("generate", "hi", "--tenant", "a\tb"), "tenant: got 'a\\tb', expected", id="tab"
        ),
    ],
)
def test_what_is_wrong_is_one_line(
    cluster: LocalCluster, arguments: tuple[str, ...], message: str
) -> None:
    refused = run(*arguments, *endpoints(cluster))
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"lengthwise: {message}")
    assert refused.stderr.count("\n") == 1
