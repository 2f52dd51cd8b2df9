"""`lengthwise evaluate`, with the process that computes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.conftest import Run

from lengthwise_engine.accuracy.record import find_record


@pytest.mark.slow
def test_an_evaluation_tells_what_it_found_and_records_it(
    run: Run, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("Some words of the user's own. " * 20)
    options = ("--text", str(text), "--tokens", "96", "--context", "48", "--quantization", "int4")
    bound = ("--most-kl", "0", "--records", str(tmp_path), "--json")
    ended = run("evaluate", str(make_checkpoint("llama")), *options, *bound)
    assert ended.returncode == 1, ended.stderr
    outcome = json.loads(ended.stdout)
    texts = outcome["record"]["texts"]
    assert [each["text"] for each in texts] == ["python", "mine.txt"]
    assert all(each["kl_mean"] > 0 and each["tokens"] == 94 for each in texts)
    said = ended.stderr.splitlines()
    assert "reading mine.txt, 94 tokens" in said
    assert said[-1].startswith("beyond its bounds: mine.txt: a mean KL of ")
    found = find_record(tmp_path, outcome["record"]["fingerprint"], "int4-float32")
    assert found is not None
    assert found.failures() == outcome["failures"] != []


@pytest.mark.slow
def test_what_cannot_be_evaluated_is_one_line(run: Run, tmp_path: Path) -> None:
    for arguments, expected in (
        (("--quantization", "int5"), "--quantization: got 'int5', expected none, int8, int4, fp8"),
        (("--text", str(tmp_path)), f"--text: got {tmp_path}, expected a file"),
    ):
        ended = run("evaluate", *arguments)
        assert ended.returncode == 1
        assert ended.stderr.strip() == f"lengthwise: {expected}"
