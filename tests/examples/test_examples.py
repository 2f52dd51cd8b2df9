"""Each example runs as it stands, against the demo model that `make up` serves."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(http_port=0) as cluster:
        yield cluster


def run(
    example: str, cluster: LocalCluster, *arguments: object
) -> subprocess.CompletedProcess[str]:
    places = {
        "LENGTHWISE_ENDPOINT": cluster.endpoint,
        "LENGTHWISE_URL": f"http://{cluster.routers[0].http_address}/v1",
    }
    return subprocess.run(
        [sys.executable, EXAMPLES / example, *map(str, arguments)],
        env={**os.environ, **places},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip


def test_a_stream_says_what_it_took(cluster: LocalCluster) -> None:
    done = run("stream.py", cluster, "def read_lines(path):")
    assert len(done.stdout) > 40
    assert "tokens in, " in done.stderr
    assert "first token after " in done.stderr


def test_many_prompts_are_answered_in_their_order(cluster: LocalCluster) -> None:
    text = run("many_prompts.py", cluster).stdout
    places = [text.index(f"def times_{number}(value):\n    return ") for number in range(100)]
    assert places == sorted(places)


def test_a_conversation_finds_its_earlier_turns_cached(cluster: LocalCluster) -> None:
    text = run("conversation.py", cluster, "Write a stack.", "And now a queue.").stdout
    assert "> Write a stack.\n" in text
    second = text.partition("> And now a queue.\n")[2]
    cached = int(second.rpartition("(")[2].partition(" ")[0])
    assert cached >= 16


def test_openais_package_gets_the_same_service(cluster: LocalCluster) -> None:
    pytest.importorskip("openai")
    assert len(run("openai_chat.py", cluster, "Write a stack.").stdout) > 10


def test_a_batch_is_a_line_of_json_for_each_prompt(cluster: LocalCluster, tmp_path: Path) -> None:
    """The bad one too; more of them than are sent at once."""
    prompts = ["import os", "# Grüße, 数えます", "", "x" * 20_000, *(f"v{n} =" for n in range(40))]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    run("batch.py", cluster, tmp_path / "prompts.txt", tmp_path / "answers.jsonl")
    lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    assert [answer["prompt"] for answer in answers] == prompts
    assert [answer["prompt"][:1] for answer in answers if "error" in answer] == ["", "x"]
    assert all(answer["tokens"] > 0 for answer in answers if "error" not in answer)


def test_an_explanation_names_workers_reason_and_prediction(cluster: LocalCluster) -> None:
    text = run("explanation.py", cluster).stdout
    assert "151 tokens, short\n" in text
    assert "\nbecause: " in text
    assert "predicted" in text
    assert "it succeeded" in text


def test_the_list_of_examples_is_whole() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = [*EXAMPLES.glob("*.py"), *(EXAMPLES.parent / "helm" / "values").glob("*.yaml")]
    assert [path.name for path in files if f"[{path.name}]" not in listed] == []
