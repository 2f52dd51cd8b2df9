"""What the comparison of steps on CPUs asks, and what it counts."""

import os
import sys
from pathlib import Path

import pytest
from cpu_engine.__main__ import CASES, DECODE_STEPS, read_bytes
from cpu_engine.ours import BLOCK_SIZE, NUM_BLOCKS, chunks
from cpu_engine.process import EngineProcess

ECHO = """
import json, os, sys
with os.fdopen(int(sys.argv[2]), "w", buffering=1) as answers:
    print("ready", file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["kind"] == "end":
            sys.exit("no such case")
        print(asked["rows"], file=answers)
"""


def test_a_decode_step_reads_what_three_hundred_and_sixty_million_weights_take() -> None:
    """24 layers of 896 x (896 + 2 * 128 + 896 + 3 * 4864), and a head of 4096 x 896."""
    assert read_bytes() == 2 * (24 * 896 * (896 + 2 * 128 + 896 + 3 * 4864) + 4096 * 896)


def test_sequences_of_a_case_share_no_block_and_fit_the_cache() -> None:
    for kind, rows, tokens in CASES:
        steps = DECODE_STEPS if kind == "decode" else 0
        blocks = [block for each in chunks(rows, tokens + steps, 0) for block in each.block_ids]
        assert len(set(blocks)) == len(blocks) == rows * -(-(tokens + steps) // BLOCK_SIZE)
        assert max(blocks) < NUM_BLOCKS


def test_an_engine_answers_while_it_is_asked_and_says_why_it_ended(tmp_path: Path) -> None:
    script = tmp_path / "echo.py"
    script.write_text(ECHO)
    cores = sorted(os.sched_getaffinity(0))[:1]
    with EngineProcess(Path(sys.executable), str(script), tmp_path, cores) as engine:
        assert [engine.ask({"kind": "decode", "rows": rows}) for rows in (1, 8)] == ["1", "8"]
        with pytest.raises(RuntimeError, match="no such case"):
            engine.ask({"kind": "end"})
