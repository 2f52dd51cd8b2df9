"""What a newcomer runs first: the whole deployment, a completion, a clean end."""

import json
import subprocess
import sys

import pytest

from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lengthwise_cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_up_serves_the_demo_model_and_ends_cleanly() -> None:
    result = cli("up", "--port", "0", "--say", "def read_lines(path):", "--once")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert "\ndef read_lines(path):" in result.stdout
    assert "64 output tokens" in result.stdout
    assert "logs:" not in result.stdout


def test_the_commands_agree(cluster: LocalCluster) -> None:
    endpoint = ("--endpoint", cluster.endpoint)
    arguments = ("generate", "class Queue:\n", "--max-tokens", "24", "--seed", "1", *endpoint)
    plain, value = cli(*arguments), cli(*arguments, "--json")
    assert plain.returncode == value.returncode == 0, plain.stderr + value.stderr
    assert plain.stdout.removesuffix("\n") == json.loads(value.stdout)["text"].removesuffix("\n")
    ids = cli("tokenize", "class Queue:\n", "--json", *endpoint)
    usage = json.loads(value.stdout)["usage"]
    num_tokens = len(json.loads(ids.stdout))
    assert 0 <= usage.pop("cached_prompt_tokens") < num_tokens
    assert usage == {"prompt_tokens": num_tokens, "output_tokens": 24}
    refused = cli("generate", "class Queue:\n", "--temperature", "-1", *endpoint)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("lengthwise: temperature: got -1.0, expected")
