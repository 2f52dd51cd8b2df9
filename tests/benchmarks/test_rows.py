"""Rows name the commit that they measured, or are not recorded."""

import subprocess
from pathlib import Path

import pytest
import rows


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clean one, with a module and an empty folder for data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "module.py").write_text("pass\n")
    (tmp_path / "data" / "other.csv").write_text("a\n1\n")
    identity = ("-c", "user.name=n", "-c", "user.email=e")
    for arguments in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "first")):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, timeout=30)
    monkeypatch.setattr(rows, "HERE", tmp_path)
    return tmp_path


def test_a_clean_tree_is_named_and_the_rows_of_other_benchmarks_do_not_soil_it(
    checkout: Path,
) -> None:
    (checkout / "data" / "other.csv").write_text("a\n1\n2\n")
    (checkout / "new.txt").write_text("not tracked")
    for number in (1, 2):
        rows.append_rows("numbers", [{"number": number}], checkout / "data")
    header, *lines = (checkout / "data" / "numbers.csv").read_text().splitlines()
    assert header == "date,commit,cpu,cores,python,number"
    assert [line.rpartition(",")[2] for line in lines] == ["1", "2"]
    assert all(line.split(",")[1] for line in lines)


def test_rows_of_changed_code_are_printed_with_the_reason(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "module.py").write_text("changed\n")
    rows.append_rows("numbers", [{"number": 42}], checkout / "data")
    printed = capsys.readouterr().out
    assert "not recorded" in printed
    assert "module.py" in printed
    assert ",42\n" in printed
    assert not (checkout / "data" / "numbers.csv").exists()


def test_a_module_that_is_not_tracked_may_have_been_measured_too(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "new.py").write_text("pass\n")
    rows.append_rows("numbers", [{"number": 42}], checkout / "data")
    assert "new.py" in capsys.readouterr().out
    assert not (checkout / "data" / "numbers.csv").exists()


def test_rows_that_bring_their_commit_are_recorded_anywhere(checkout: Path) -> None:
    (checkout / "module.py").write_text("changed\n")
    rows.append_rows("numbers", [{"commit": "abc", "number": 42}], checkout / "data")
    assert ",abc," in (checkout / "data" / "numbers.csv").read_text().replace("\n", ",")
