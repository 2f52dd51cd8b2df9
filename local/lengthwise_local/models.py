"""Which models a local cluster serves, and what requests call them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from lengthwise_checkpoint.hub import model_name
from lengthwise_local.errors import LocalClusterError
from lengthwise_local.preflight import find_model


def named_models(texts: Iterable[str]) -> dict[str, str]:
    """Checkpoints by name: each text is one, named by its last part, or NAME=CHECKPOINT.

    Errors: LocalClusterError where two have one name.
    """
    models: dict[str, str] = {}
    for text in texts:
        name, equals, model = text.partition("=")
        if not equals or Path(text).expanduser().exists():
            name, model = "", text
        model = find_model(model)
        name = name or model_name(model)
        if name in models:
            raise LocalClusterError(
                f"--model: got two models named {name!r}; name one otherwise: --model NAME={model}"
            )
        models[name] = model
    return models


def served(
    model: str | Path | None, models: Mapping[str, str | Path] | None
) -> dict[str, dict[str, str]]:
    """What the configuration of each model's workers says of it, by the model's name; one alone
    needs no name.

    Errors: LocalClusterError for a bad model.
    """
    if not models:
        return {"": {"model": find_model(model)}}
    if model is not None:
        raise LocalClusterError(f"got model {str(model)!r} and models, expected one of the two")
    return {name: {"model": find_model(path), "served_name": name} for name, path in models.items()}
