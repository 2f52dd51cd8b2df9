"""Goodput: the arrivals, the client, the numbers, the ladder, and a run that goes on."""

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cpu import CpuUse
from goodput.arms import DEFAULT, FIXED
from goodput.ladder import STEP, next_rate
from goodput.measure import (
    OBJECTIVES,
    attainment,
    estimate_goodput,
    estimate_ratio,
    goodput,
)
from goodput.player import Outcome, missed, play
from goodput.plays import Play, Plays
from goodput.report import play_row, summary_rows
from goodput.simulation import simulate
from goodput.traffic import Arrival, poisson, read_lengths
from traces import AZURE_CONVERSATIONS

FAST = Outcome(ttft_seconds=0.1, tpot_seconds=0.02, output_tokens=10)
LATE = Outcome(ttft_seconds=1.5, tpot_seconds=0.02, output_tokens=10)
STUCK = Outcome(ttft_seconds=0.1, tpot_seconds=0.5, output_tokens=10)


def played(arm: str, rate: float, *outcomes: Outcome) -> Play:
    cpu = CpuUse(client=0.1, cluster=1.8, foreign=0.0)
    return Play(shape="s", rate=rate, arm=arm, cpu=cpu, seconds=10.0, outcomes=outcomes)


def test_every_rate_has_the_same_requests_in_the_same_order() -> None:
    lengths = read_lengths(AZURE_CONVERSATIONS)
    assert max(output for _, output in lengths) == 128
    slow = poisson(lengths, rate=1.0, count=200, seed=3)
    fast = poisson(lengths, rate=4.0, count=200, seed=3)
    assert [one.at for one in slow] == pytest.approx([4 * one.at for one in fast])
    assert [one.token_ids(50) for one in slow[:3]] == [one.token_ids(50) for one in fast[:3]]
    assert slow[-1].at == pytest.approx(200, rel=0.2)
    assert slow != poisson(lengths, rate=1.0, count=200, seed=4)


def test_both_halves_of_an_objective_have_to_be_met() -> None:
    loose, strict = OBJECTIVES
    assert [loose.is_met(each) for each in (FAST, LATE, STUCK, missed("x"))] == [
        True, True, False, False
    ]  # fmt: skip
    assert [strict.is_met(each) for each in (FAST, LATE)] == [True, False]


def test_goodput_is_interpolated_where_nine_of_ten_meet_the_objective() -> None:
    rungs = {1.0: [True] * 10, 2.0: [True] * 8 + [False] * 2, 3.0: [False] * 10}
    assert goodput(rungs) == pytest.approx(1.5)
    assert goodput({1.0: [True] * 10}) == 1.0, "no rung is too high: a lower bound"
    assert goodput({2.0: [True] * 9 + [False] * 9}) == pytest.approx(2.0 * 0.5 / 0.9)
    found = estimate_goodput(rungs)
    assert found.value == pytest.approx(1.5)
    assert found.low <= found.value <= found.high


def test_arms_that_do_the_same_differ_by_nothing_whatever_is_drawn() -> None:
    rungs = {1.0: [True] * 19 + [False], 2.0: [True, False] * 10}
    ratio = estimate_ratio(rungs, rungs)
    assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)
    worse = estimate_ratio({**rungs, 1.0: [True, False] * 10}, rungs)
    assert worse.high < 1.0


def test_wilsons_interval_holds_the_share() -> None:
    all_met = attainment([True] * 50)
    assert (all_met.value, all_met.high) == (1.0, 1.0)
    assert 0.92 < all_met.low < 0.94


def test_the_ladder_goes_to_where_all_meet_and_to_where_none_does() -> None:
    assert next_rate(3.0, {}, 6) == 3.0
    assert next_rate(3.0, {3.0: [1.0, 0.95]}, 6) == pytest.approx(3.0 * STEP)
    assert next_rate(3.0, {3.0: [0.8, 0.5]}, 6) == pytest.approx(3.0 / STEP)
    both = {3.0: [0.95, 0.5]}
    assert next_rate(3.0, both, 6) == pytest.approx(3.0 * STEP)
    both[3.75] = [0.5, 0.4]
    assert next_rate(3.0, both, 6) == pytest.approx(3.0 / STEP)
    both[2.4] = [1.0, 0.91]
    assert next_rate(3.0, both, 6) is None
    assert next_rate(3.0, {3.0: [1.0], 3.75: [1.0]}, 2) is None


def test_a_run_goes_on_where_it_was_and_another_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "plays.jsonl"
    plays = Plays(path, {"commit": "a"})
    plays.add(played("default", 1.0, FAST, missed("TimeoutError: ")))
    again = Plays(path, {"commit": "a"})
    assert again.all[0].outcomes == [FAST, missed("TimeoutError: ")]
    assert again.has("s", 1.0, "default")
    assert not again.has("s", 2.0, "default")
    assert Plays(path, {"commit": "b"}).all == []


def test_rows_tell_what_was_met_and_how_arms_compare(tmp_path: Path) -> None:
    plays = Plays(tmp_path / "plays.jsonl", {})
    plays.add(played("default", 1.0, *[FAST] * 20))
    plays.add(played("together", 1.0, *[FAST] * 20))
    plays.add(played("vllm", 1.0, *[LATE] * 10, *[FAST] * 10))
    row = play_row(plays.all[2], {"seed": 1})
    assert (row["met_2s_200ms"], row["met_1s_150ms"], row["failed"]) == (1.0, 0.5, 0)
    rows = list(summary_rows(plays, "s", {}))
    assert len(rows) == 6
    strict = {row["arm"]: row for row in rows if row["objective"] == OBJECTIVES[1].name}
    assert strict["default"]["to_vllm"] == pytest.approx(0.9 / 0.5, abs=0.01)
    assert strict["default"]["to_best_fixed"] == 1.0
    assert strict["vllm"]["to_best_fixed"] == ""


@pytest.mark.slow
def test_the_default_policy_is_not_behind_the_better_of_the_fixed_arms() -> None:
    """In simulated time, where prompts are more than one prefill worker can compute in time."""
    arrivals = poisson(read_lengths(AZURE_CONVERSATIONS), rate=6.0, count=300, seed=1)
    met = {}
    for arm in (DEFAULT, *FIXED):
        outcomes = simulate(arm, arrivals)
        tokens = [outcome.output_tokens for outcome in outcomes]
        assert tokens == [arrival.output_tokens for arrival in arrivals]
        met[arm.name] = sum(OBJECTIVES[-1].is_met(outcome) for outcome in outcomes)
    assert met[DEFAULT.name] >= 0.95 * max(met.values())
    assert met["disaggregated"] < met["together"]


class _Server(BaseHTTPRequestHandler):
    """Streams what is asked for; prompts of one token are refused, of two end early."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        num_prompt, num_tokens = len(body["prompt"]), body["max_tokens"]
        self.send_response(429 if num_prompt == 1 else 200)
        self.end_headers()
        if num_prompt == 1:
            return
        sent = num_tokens - (num_prompt == 2)
        for _ in range(sent):
            self._send({"choices": [{"text": "x"}]})
        self._send({"choices": [], "usage": {"completion_tokens": sent}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, event: object) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def base_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_what_fails_or_ends_early_has_missed_and_is_told(base_url: str) -> None:
    arrivals = [
        Arrival(at=0.0, seed=1, prompt_tokens=prompt, output_tokens=5) for prompt in (3, 1, 2)
    ]
    good, refused, short = await play(base_url, "m", 10, arrivals)
    assert not good.error
    assert good.ttft_seconds < 20
    assert refused.ttft_seconds == math.inf
    assert "429" in refused.error
    assert "got 4 tokens, expected 5" in short.error
