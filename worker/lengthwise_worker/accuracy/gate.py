"""Whether a worker may serve a model in an approximate mode, by the record of its evaluation."""

import logging
from pathlib import Path

import torch

from lengthwise_checkpoint.spec import DecoderSpec
from lengthwise_engine.accuracy.record import find_record, mode_name, records_folder
from lengthwise_engine.errors import AccuracyError
from lengthwise_engine.fingerprint import model_fingerprint
from lengthwise_engine.loaded_model import LoadedModel
from lengthwise_engine.models.decoder_loader import compute_dtype
from lengthwise_worker.config import WorkerConfig

logger = logging.getLogger(__name__)


def check_accuracy(config: WorkerConfig, checkpoint: Path, model: LoadedModel) -> None:
    """Of what the worker itself rounds; weights that are stored so are served as they are.

    One line of the log says what was found. Errors: AccuracyError where the evaluation failed its
    bounds, or its record is unusable, unless the configuration accepts that.
    """
    spec = model.spec
    if not isinstance(spec, DecoderSpec) or model.files is None:
        return
    if not spec.rounded_to and config.kv_dtype == "auto":
        return
    asked = None if config.dtype == "auto" else getattr(torch, config.dtype)
    dtype = compute_dtype(spec, torch.device(model.shards.device_type), asked)
    mode = mode_name(spec.rounded_to, str(dtype).removeprefix("torch."), config.kv_dtype)
    try:
        _check(config, model_fingerprint(checkpoint, model.files.digest()), mode)
    except AccuracyError as error:
        if not config.accept_failed_evaluation:
            raise
        logger.warning("%s; it is served, since accept_failed_evaluation is set", error)


def _check(config: WorkerConfig, fingerprint: str, mode: str) -> None:
    record = find_record(config.evaluation_records or records_folder(), fingerprint, mode)
    if record is None:
        logger.warning(
            "accuracy: %s in %s was not evaluated; lengthwise evaluate %s --quantization %s"
            " --kv-dtype %s says what it costs",
            *(config.model_name, mode, config.model, config.quantization, config.kv_dtype),
        )
        return
    if failures := record.failures():
        raise AccuracyError(
            f"accuracy: {config.model_name} in {mode} failed its evaluation of {record.date}"
            f" ({'; '.join(failures)}); choose another mode, evaluate it again with other"
            " bounds, or set accept_failed_evaluation"
        )
    worst = max(record.texts, key=lambda text: text.kl_mean)
    logger.info(
        "accuracy: %s in %s passed its evaluation of %s: perplexity %+.2f %%, KL %.4f nats",
        *(config.model_name, mode, record.date, 100 * worst.perplexity_increase, worst.kl_mean),
    )
