"""Reproducibility: the same input gives the same decisions in every process."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("decision_log.py")


def digest(hash_seed: str) -> str:
    ended = subprocess.run(
        [sys.executable, SCRIPT],
        env={"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return ended.stdout.strip()


@pytest.mark.slow
def test_decisions_do_not_depend_on_the_hashing_of_the_process() -> None:
    first = digest("1")
    assert len(first) == 64
    assert digest("2") == first
