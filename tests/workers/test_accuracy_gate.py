"""A worker that rounds weights looks for the record of its evaluation before it serves."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lengthwise_decode_worker.config import DecodeWorkerConfig
from lengthwise_engine.accuracy.comparison import TextAccuracy
from lengthwise_engine.accuracy.record import DEFAULT_BOUNDS, AccuracyRecord
from lengthwise_engine.errors import AccuracyError
from lengthwise_engine.fingerprint import model_fingerprint
from lengthwise_engine.loaded_model import LoadedModel, load_runner
from lengthwise_worker.accuracy.gate import check_accuracy
from lengthwise_worker.config import WorkerConfig
from lengthwise_worker.engine import start_engine


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> LoadedModel:
    return load_runner(
        checkpoint, device="cpu", num_blocks=4, quantization="int4", numerics="invariant"
    )


@pytest.fixture
def config(checkpoint: Path, tmp_path: Path) -> WorkerConfig:
    return DecodeWorkerConfig(
        model=str(checkpoint),
        device="cpu",
        num_blocks=4,
        quantization="int4",
        metrics_listen="",
        evaluation_records=tmp_path,
    )


@pytest.fixture
def write_record(checkpoint: Path, model: LoadedModel, tmp_path: Path) -> Callable[..., None]:
    """`write_record(kl_mean, fingerprint="")`: of this model unless it is said otherwise."""

    def write(kl_mean: float, fingerprint: str = "") -> None:
        assert model.files is not None
        found = TextAccuracy(
            text="python",
            tokens=100,
            perplexity=10.1,
            full_perplexity=10.0,
            agreement=0.95,
            kl_mean=kl_mean,
            kl_p99=kl_mean,
        )
        AccuracyRecord(
            model="small",
            fingerprint=fingerprint or model_fingerprint(checkpoint, model.files.digest()),
            mode="int4-float32",
            full_dtype="float32",
            context=512,
            date="2026-12-01",
            bounds=DEFAULT_BOUNDS["int4"],
            texts=(found,),
        ).write(tmp_path)

    return write


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [
        (record.levelno, record.getMessage())
        for record in caplog.records
        if record.name == "lengthwise_worker.accuracy.gate"
    ]


def test_a_mode_that_was_not_evaluated_is_served_with_one_warning(
    config: WorkerConfig,
    checkpoint: Path,
    model: LoadedModel,
    write_record: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_record(9.0, fingerprint="f" * 16)
    check_accuracy(config, checkpoint, model)
    ((level, text),) = said(caplog)
    assert level == logging.WARNING
    assert text == (
        f"accuracy: {checkpoint.name} in int4-float32 was not evaluated;"
        f" lengthwise evaluate {checkpoint} --quantization int4 --kv-dtype auto says what it costs"
    )


def test_a_mode_that_passed_is_served_whatever_the_numerics(
    config: WorkerConfig,
    checkpoint: Path,
    model: LoadedModel,
    write_record: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The model is invariant, and has another fingerprint for those that it serves with."""
    caplog.set_level(logging.INFO)
    write_record(0.05)
    check_accuracy(config, checkpoint, model)
    ((level, text),) = said(caplog)
    assert level == logging.INFO
    assert text.endswith("passed its evaluation of 2026-12-01: perplexity +1.00 %, KL 0.0500 nats")


async def test_a_failed_bound_refuses_to_start(
    config: WorkerConfig, write_record: Callable[..., None]
) -> None:
    write_record(0.5)
    with pytest.raises(
        AccuracyError, match=r"failed its evaluation of 2026-12-01 \(python: a mean"
    ):
        await start_engine(config)


def test_a_failed_evaluation_can_be_accepted(
    config: WorkerConfig,
    checkpoint: Path,
    model: LoadedModel,
    write_record: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_record(0.5)
    check_accuracy(replace(config, accept_failed_evaluation=True), checkpoint, model)
    ((level, text),) = said(caplog)
    assert level == logging.WARNING
    assert text.endswith("it is served, since accept_failed_evaluation is set")


def test_a_model_that_nothing_is_done_to_needs_no_record(
    config: WorkerConfig, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_accuracy(config, checkpoint, load_runner(checkpoint, device="cpu", num_blocks=4))
    assert said(caplog) == []
