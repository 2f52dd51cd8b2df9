"""Which models a local cluster serves, and what requests call them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lengthwise_checkpoint.adapters.adapter_config import read_adapter_spec
from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.hub import is_hub_id, model_name
from lengthwise_local.errors import LocalClusterError
from lengthwise_local.preflight import find_model
from lengthwise_local.process import Role


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


def with_adapters(
    configs: Mapping[Role, Mapping[str, object]], texts: Sequence[str], num_models: int
) -> dict[Role, Mapping[str, object]]:
    """The same of workers that hold these adapters, NAME=FOLDER or NAME=HUB_ID each.

    Errors: LocalClusterError for what no worker could load, as far as its configuration says, and
    where there are several models that they might be of.
    """
    if not texts:
        return dict(configs)
    if num_models > 1:
        raise LocalClusterError(f"--adapter: got {num_models} models, expected one, their base")
    adapters = list(_adapters(texts))
    workers: tuple[Role, ...] = ("prefill", "decode")
    held = {role: {"adapters": adapters, **configs.get(role, {})} for role in workers}
    return {**configs, **held}


def _adapters(texts: Iterable[str]) -> Iterator[dict[str, str]]:
    """As the workers' configuration has them."""
    for text in texts:
        name, equals, path = text.partition("=")
        folder = Path(path).expanduser()
        if not (equals and name and path):
            raise LocalClusterError(
                f"--adapter: got {text!r}, expected NAME=FOLDER or NAME=OWNER/REPOSITORY"
            )
        if not folder.is_dir() and not is_hub_id(path):
            raise LocalClusterError(
                f"--adapter {name}: no adapter in {path}, which does not exist; expected a folder"
                " with adapter_config.json or a hub id (owner/name)"
            )
        if folder.is_dir():
            path = str(folder.absolute())
            try:
                read_adapter_spec(folder)
            except CheckpointError as error:
                raise LocalClusterError(f"--adapter {name}: {error}") from error
        yield {"name": name, "path": path}


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
