"""What an approximate mode costs: held to transformers; its records."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.integer_checkpoints import ROUND, reference_model
from engine.next_token import prompt

from lengthwise_engine.accuracy.comparison import TextAccuracy, compare
from lengthwise_engine.accuracy.pieces import cut
from lengthwise_engine.accuracy.record import (
    AccuracyBounds,
    AccuracyRecord,
    find_record,
    mode_name,
)
from lengthwise_engine.accuracy.scorer import Scorer
from lengthwise_engine.errors import AccuracyError

LENGTH = 150
"""Of a piece: two whole chunks of the scorer and a rest."""

TEXT = TextAccuracy(
    text="python",
    tokens=100,
    perplexity=10.1,
    full_perplexity=10.0,
    agreement=0.98,
    kl_mean=0.002,
    kl_p99=0.03,
)
RECORD = AccuracyRecord(
    model="small",
    fingerprint="0123456789abcdef",
    mode="int8-bfloat16",
    full_dtype="bfloat16",
    context=512,
    date="2026-12-01",
    bounds=AccuracyBounds(most_kl=0.01, most_perplexity_increase=0.02),
    texts=(TEXT,),
)


def scorer(folder: Path, quantization: Any) -> Scorer:
    return Scorer.load(folder, torch.device("cpu"), torch.float32, quantization, LENGTH)


def compared(pieces: list[list[int]], model: Scorer, full: Scorer) -> TextAccuracy:
    told: list[tuple[int, int]] = []
    found = compare("text", pieces, model, full, lambda done, total: told.append((done, total)))
    assert told[-1] == (found.tokens, found.tokens)
    return found


@pytest.mark.parametrize("variant", ["llama", "mistral-window", "qwen3"])
def test_perplexity_is_what_transformers_loss_says(
    variant: str, make_checkpoint: Callable[..., Path]
) -> None:
    folder, piece = make_checkpoint(variant), prompt(LENGTH)
    full = scorer(folder, "none")
    found = compared([piece], full, full)
    ids = torch.tensor([piece])
    with torch.inference_mode():
        loss = reference_model(folder, lambda _, weight: weight)(input_ids=ids, labels=ids).loss
    assert found.tokens == LENGTH - 1
    assert math.log(found.perplexity) == pytest.approx(float(loss), abs=1e-4)
    assert (found.perplexity_increase, found.agreement, found.kl_mean) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_divergence_and_agreement_are_those_of_logits_rounded_by_hand(
    name: str, make_checkpoint: Callable[..., Path]
) -> None:
    folder, pieces = make_checkpoint("llama"), [prompt(LENGTH), prompt(70), prompt(2)]
    found = compared(pieces, scorer(folder, name), scorer(folder, "none"))
    exact = reference_model(folder, lambda _, weight: weight)
    rounded = reference_model(folder, lambda _, weight: ROUND[name](weight))
    divergences: list[float] = []
    same: list[bool] = []
    for piece in pieces:
        with torch.inference_mode():
            p, q = (
                model(torch.tensor([piece])).logits[0, :-1].double().log_softmax(-1)
                for model in (exact, rounded)
            )
        divergences += (p.exp() * (p - q)).sum(-1).tolist()
        same += (p.argmax(-1) == q.argmax(-1)).tolist()
    assert found.tokens == len(same) == sum(map(len, pieces)) - len(pieces)
    assert found.kl_mean == pytest.approx(np.mean(divergences), rel=0.02)
    assert found.kl_p99 == pytest.approx(np.percentile(divergences, 99), rel=0.05)
    assert found.agreement == pytest.approx(np.mean(same), abs=2 / len(same))


def test_pieces_are_spread_over_all_documents_and_a_single_token_is_none() -> None:
    documents = [list(range(10)), [5], list(range(100, 107))]
    assert cut(documents, 4, 1000) == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
        [100, 101, 102, 103],
        [104, 105, 106],
    ]
    assert cut(documents, 4, 8) == [[0, 1, 2, 3], [8, 9]]
    assert cut(documents, 64, 2) == [list(range(10))]
    assert cut([[], [3]], 4, 8) == []


def test_what_was_written_is_found_again_and_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    assert find_record(folder, RECORD.fingerprint, RECORD.mode) is None
    RECORD.write(folder)
    later = replace(RECORD, date="2026-12-02")
    path = later.write(folder)
    assert find_record(folder, RECORD.fingerprint, RECORD.mode) == later
    assert list(folder.iterdir()) == [path]


def test_a_record_of_another_fingerprint_or_mode_is_not_taken(tmp_path: Path) -> None:
    path = RECORD.write(tmp_path)
    assert find_record(tmp_path, "f" * 16, RECORD.mode) is None
    assert find_record(tmp_path, RECORD.fingerprint, mode_name("int8", "float32", "auto")) is None
    path.rename(tmp_path / f"{'f' * 16}-{RECORD.mode}.json")
    with pytest.raises(AccuracyError, match="of 0123456789abcdef in int8-bfloat16, expected ffff"):
        find_record(tmp_path, "f" * 16, RECORD.mode)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"model": "small"}', b"\xff" * 100])
def test_a_damaged_record_is_told_by_its_path(content: bytes, tmp_path: Path) -> None:
    path = RECORD.write(tmp_path)
    path.write_bytes(content)
    with pytest.raises(AccuracyError, match=rf"{path.name}: no record of an evaluation"):
        find_record(tmp_path, RECORD.fingerprint, RECORD.mode)


def test_bounds_hold_for_every_text() -> None:
    assert RECORD.failures() == []
    bad = replace(TEXT, text="mine", kl_mean=0.02, perplexity=10.3)
    assert replace(RECORD, texts=(TEXT, bad)).failures() == [
        "mine: a mean KL of 0.0200 nats, at most 0.01",
        "mine: a perplexity +3.0%, at most +2.0%",
    ]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_number_fails_and_is_not_recorded(number: float, tmp_path: Path) -> None:
    record = replace(RECORD, texts=(replace(TEXT, perplexity=number, kl_mean=number),))
    assert len(record.failures()) == 2
    with pytest.raises(AccuracyError, match="nothing is recorded"):
        record.write(tmp_path / "records")
    assert not (tmp_path / "records").exists()
