"""The traffic of the scheduling benchmark: lengths, turns, arrivals; a seed fixes it all."""

import itertools
import random
import statistics
from pathlib import Path

import pytest
from scheduling.traffic import (
    BURSTS,
    CARDS,
    HOMOGENEOUS,
    LONG_ONLY,
    MEAN_ANSWER_SECONDS,
    MEAN_THINK_SECONDS,
    MULTI_TURN,
    Conversation,
    Lengths,
    Mix,
    conversations,
    deal,
    mean_turns_of,
    open_loop,
    read_lengths,
    scale,
    start_times,
)

CONTEXT = 4096
MIXES = [pytest.param(mix, id=mix.name) for mix in (MULTI_TURN, HOMOGENEOUS, LONG_ONLY, BURSTS)]


@pytest.fixture(scope="module")
def rows() -> list[Lengths]:
    """Like a chat trace: half of the prompts below 40 tokens, a tail beyond the context."""
    draw = random.Random(3)
    return scale(
        [
            Lengths(
                prompt_tokens=max(1, int(draw.lognormvariate(3.6, 1.9))),
                reply_tokens=max(1, int(draw.expovariate(1 / 300))),
            )
            for _ in range(20_000)
        ],
        CONTEXT,
    )


def some(mix: Mix, rows: list[Lengths], number: int = 500, seed: int = 1) -> list[Conversation]:
    return list(
        itertools.islice(conversations(mix, rows, context_length=CONTEXT, seed=seed), number)
    )


@pytest.mark.parametrize("mix", MIXES)
def test_every_conversation_fits_the_context(mix: Mix, rows: list[Lengths]) -> None:
    for conversation in some(mix, rows):
        assert conversation.turns
        total = sum(turn.user_tokens + turn.reply_tokens for turn in conversation.turns)
        assert total <= CONTEXT
        assert all(turn.user_tokens >= 1 for turn in conversation.turns)
        assert all(turn.reply_tokens >= 2 for turn in conversation.turns)  # TPOT needs two


def test_new_tokens_of_all_turns_make_up_the_last_prompt(rows: list[Lengths]) -> None:
    conversation = next(c for c in some(MULTI_TURN, rows) if len(c.turns) >= 3)
    turns = conversation.turns
    last_prompt = sum(turn.user_tokens + turn.reply_tokens for turn in turns[:-1])
    last_prompt += turns[-1].user_tokens
    new_tokens = [conversation.new_tokens(index) for index in range(len(turns))]
    assert sum(new_tokens) == last_prompt
    assert new_tokens[0] == turns[0].user_tokens
    assert min(new_tokens) > 0


@pytest.mark.parametrize("mix", MIXES)
def test_a_seed_fixes_the_traffic(mix: Mix, rows: list[Lengths]) -> None:
    def plan(seed: int) -> list[Conversation]:
        return open_loop(mix, rows, context_length=CONTEXT, seed=seed, rate=8.0, seconds=20.0)

    assert plan(5) == plan(5)
    assert plan(5) != plan(6)
    conversation = plan(5)[0]
    assert conversation.says(0, 300) == conversation.says(0, 300)
    assert len(conversation.says(0, 300)) == conversation.turns[0].user_tokens


@pytest.mark.parametrize(
    "variation", [pytest.param(1.0, id="poisson"), pytest.param(4.0, id="bursts")]
)
def test_starts_have_the_rate_and_the_variation_asked_for(variation: float) -> None:
    times = start_times(random.Random(2), 60_000, 12_000.0, variation)
    assert times[0] >= 0.0
    assert times[-1] <= 12_000.0
    gaps = [after - before for before, after in itertools.pairwise(times)]
    mean = statistics.fmean(gaps)
    assert mean == pytest.approx(0.2, rel=0.01)
    assert statistics.pstdev(gaps) / mean == pytest.approx(variation, rel=0.06)
    assert BURSTS.variation == 4.0


def test_a_deck_holds_every_quantile_once(rows: list[Lengths]) -> None:
    ordered = sorted(rows, key=lambda row: row.prompt_tokens)
    cards = deal(rows, random.Random(4))
    for _ in range(3):
        deck = sorted(itertools.islice(cards, CARDS), key=lambda row: row.prompt_tokens)
        for card, row in enumerate(deck):
            low = ordered[len(ordered) * card // CARDS].prompt_tokens
            high = ordered[min(len(ordered) - 1, len(ordered) * (card + 1) // CARDS)].prompt_tokens
            assert low <= row.prompt_tokens <= high


def test_two_seeds_bring_about_the_same_work(rows: list[Lengths]) -> None:
    totals = [
        sum(c.new_tokens(i) for c in some(MULTI_TURN, rows, 60, seed) for i in range(len(c.turns)))
        / sum(len(c.turns) for c in some(MULTI_TURN, rows, 60, seed))
        for seed in range(8)
    ]
    assert max(totals) / min(totals) < 1.15


@pytest.mark.slow
def test_the_open_loop_brings_the_rate_asked_for(rows: list[Lengths]) -> None:
    def planned(mix: Mix, seed: int) -> list[Conversation]:
        return open_loop(mix, rows, context_length=CONTEXT, seed=seed, rate=10.0, seconds=60.0)

    assert [len(planned(HOMOGENEOUS, seed)) for seed in range(3)] == [600] * 3
    turns = [sum(len(c.turns) for c in planned(MULTI_TURN, seed)) for seed in range(10)]
    # Those under way at the beginning come on top, as many as are under way at the end.
    under_way = 10.0 * 2.8 * (MEAN_THINK_SECONDS + MEAN_ANSWER_SECONDS)
    assert statistics.fmean(turns) == pytest.approx(600 + under_way, rel=0.06)
    assert mean_turns_of(MULTI_TURN, rows, CONTEXT) == pytest.approx(3.8, abs=0.5)


def test_a_trace_without_the_columns_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("prompt_tokens,other\n1,2\n")
    with pytest.raises(ValueError, match=r"trace\.csv: expected columns .*output_tokens"):
        read_lengths(path)
    with pytest.raises(ValueError, match="no such trace"):
        read_lengths(tmp_path / "none.csv")
