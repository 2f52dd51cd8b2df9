"""What a worker promises of its results, `invariant` or `fast`: see docs/numerics.md.

Decided once, when a model is loaded, and never assumed: a worker is invariant if it was found so.
"""

import logging
from typing import Literal

from lengthwise_engine.errors import NumericsError
from lengthwise_engine.foreign_trials import invariance_digest
from lengthwise_engine.invariance import try_invariance
from lengthwise_engine.models.decoder import Decoder
from lengthwise_engine.models.foreign.model import ForeignModel
from lengthwise_kernels.dispatch import check_attention

logger = logging.getLogger(__name__)

Numerics = Literal["auto", "invariant", "fast"]
"""What is asked for; auto: on CPUs invariant where that can be had, else fast."""


def choose_numerics(model: Decoder, asked: Numerics) -> tuple[Decoder, str]:
    """The model as it is to be computed, and its numerics: a name that two workers share exactly
    if both are to be invariant, and compute alike. It is empty where only one worker is: under
    auto, workers of unlike machines go on serving together, and with each other's requests.

    Errors: NumericsError where `asked` is invariant and the model cannot be, `UnsupportedByKernel`
    where no kernel computes it so.
    """
    if asked == "fast":
        return model, ""
    if asked == "auto" and model.device.type != "cpu":
        fall_back(asked, f"on {model.device.type} invariant is slower, and has to be asked for")
        return model, ""
    invariant = Decoder(model.spec, model.weights, invariant=True, adapters=model.adapters)
    check_attention(invariant.attention)
    found = try_invariance(invariant)
    if found.varying:
        fall_back(asked, f"{', '.join(found.varying)} vary with the number of rows on this machine")
        return model, ""
    return invariant, found.digest if asked == "invariant" else ""


def choose_foreign_numerics(model: ForeignModel, asked: Numerics) -> str:
    """The same of a model that transformers computes, which stays the one that is given."""
    if asked == "fast":
        return ""
    if model.device.type != "cpu" or model.spec.is_scored:
        where = "soft caps and sinks are" if model.spec.is_scored else f"{model.device.type} is"
        fall_back(asked, f"attention with {where} not invariant in transformers' models")
        return ""
    model.set_invariant(True)
    digest = invariance_digest(model)
    if not digest:
        model.set_invariant(False)
        fall_back(asked, "transformers' model varies with the number of rows on this machine")
    return digest if asked == "invariant" else ""


def fall_back(asked: Numerics, why: str) -> None:
    """To fast. Errors: NumericsError where `asked` is invariant."""
    if asked == "invariant":
        raise NumericsError(f"numerics: got invariant, but {why}; set it to auto or fast")
    if asked == "auto":
        logger.info("numerics: fast, since %s", why)
