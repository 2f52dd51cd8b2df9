"""Where a checkpoint lies: a folder or GGUF file here, or a repository of the Hugging Face hub."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lengthwise_checkpoint.config_json import shorten
from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.gguf.model import SUFFIX, first_parts, is_gguf, parts_pattern, whole_name

TEXT_FILES: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)
"""What a router reads."""

CONFIG_FILES: Final = ("config.json",)
"""What a worker reads first."""

MODEL_FILES: Final = ("*.json", "*.safetensors")
"""What a worker reads."""

_MAX_SHOWN: Final = 8


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form owner/name or owner/name/file.gguf, perhaps with @revision."""
    name, _, _ = name.partition("@")
    if not name or name.startswith((".", "/", "~")) or name.endswith("/"):
        return False
    return name.count("/") == 1 or (name.count("/") > 1 and name.endswith(SUFFIX))


def find_checkpoint(name: str, files: Sequence[str]) -> Path:
    """The folder or GGUF file of this name if there is one, else the `files` of the hub's
    repository: their folder, or its GGUF file.

    Raises `CheckpointError`.
    """
    path = Path(os.path.expanduser(name))  # leaves what it cannot expand
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return path
    if not is_hub_id(name):
        raise CheckpointError(
            f"model: got {name!r}, expected a checkpoint folder, a .gguf file or a hub id"
            " (owner/name, owner/name@revision, owner/name/file.gguf)"
        )
    from lengthwise_checkpoint.download import download, list_files

    repository, _, revision = name.partition("@")
    owner, title, *within = repository.split("/", 2)
    repository = f"{owner}/{title}"
    try:
        if within:
            return download(repository, revision or None, [parts_pattern(within[0])]) / within[0]
        folder = download(repository, revision or None, files)
        # There is no folder where the repository has none of the files.
        found = _in_folder(folder) if folder.exists() else folder
        if is_gguf(found) or (folder / "config.json").exists():
            return found
        models = first_parts(list_files(repository, revision or None))
        if len(models) == 1:
            return download(repository, revision or None, [parts_pattern(models[0])]) / models[0]
    # The hub raises errors of a dozen families; the operator has to mend every one of them.
    except Exception as error:
        reason = shorten(str(error))
        raise CheckpointError(f"model: cannot fetch {name!r} from the hub: {reason}") from error
    if models:
        raise _several(name, models)
    return folder


def model_name(name: str) -> str:
    """What a model is called that is given no other name: its last part."""
    return whole_name(name.rstrip("/").rpartition("/")[2])


def _in_folder(folder: Path) -> Path:
    """A folder without safetensors is that of its GGUF file, if it has one."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise CheckpointError(f"model: {folder} cannot be read: {error.strerror}") from error
    models = first_parts(names)
    if not models or any(name.endswith(".safetensors") for name in names):
        return folder
    if len(models) > 1:
        raise _several(str(folder), models)
    return folder / models[0]


def _several(name: str, models: Sequence[str]) -> CheckpointError:
    shown = ", ".join(models[:_MAX_SHOWN])
    return CheckpointError(
        f"model: {name!r} has {len(models)} GGUF models ({shown}), expected one; name it:"
        f" {name.partition('@')[0].rstrip('/')}/{models[0]}"
    )
