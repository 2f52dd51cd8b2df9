"""The command that makes keys, and the keys that other commands send."""

import re
from pathlib import Path

import pytest
from cli.conftest import Run

from lengthwise_router.keys.key_file import read_key_file


@pytest.mark.slow
def test_a_new_key_is_said_once_beside_its_entry(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    keys = []
    for name in ("alice", 'it\'s "odd": #1 🐙'):
        result = run("keys", "new", name, PYTHONIOENCODING="utf-8")
        assert result.returncode == 0
        keys += re.findall(r"lw-[\w-]{43}$", result.stderr, re.MULTILINE)
        assert "lw-" not in result.stdout
        with file.open("a", encoding="utf-8") as entries:
            entries.write(result.stdout)
    assert len(set(keys)) == 2
    assert [entry.name for entry in read_key_file(file)] == ["alice", 'it\'s "odd": #1 🐙']


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", "a\nb", "x" * 129])
def test_a_name_that_no_tenant_may_have_is_refused(run: Run, name: str) -> None:
    result = run("keys", "new", name)
    assert result.returncode == 1
    assert result.stderr.startswith("lengthwise: NAME: got ")
    assert result.stderr.count("\n") == 1
    assert not result.stdout


@pytest.mark.slow
def test_a_key_in_the_environment_that_is_none_is_not_shown(run: Run) -> None:
    result = run("models", LENGTHWISE_API_KEY="not a key")
    assert result.returncode == 1
    assert result.stderr.startswith("lengthwise: LENGTHWISE_API_KEY: expected 1 to ")
    assert "not a key" not in result.stderr
