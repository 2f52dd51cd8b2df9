"""Where a checkpoint lies: a folder on this machine, or a repository of the Hugging Face hub."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lengthwise_checkpoint.config_json import shorten
from lengthwise_checkpoint.errors import CheckpointError

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


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form owner/name or owner/name@revision."""
    name, _, _ = name.partition("@")
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def find_checkpoint(name: str, files: Sequence[str]) -> Path:
    """The folder of this name if there is one, else the `files` of the hub's repository.

    Raises `CheckpointError`.
    """
    folder = Path(os.path.expanduser(name))  # leaves what it cannot expand
    if folder.is_dir():
        return folder
    if not is_hub_id(name):
        raise CheckpointError(
            f"model: got {name!r}, expected a checkpoint folder or a hub id (owner/name,"
            " owner/name@revision)"
        )
    from lengthwise_checkpoint.download import download

    try:
        repository, _, revision = name.partition("@")
        return download(repository, revision or None, files)
    # The hub raises errors of a dozen families; the operator has to mend every one of them.
    except Exception as error:
        reason = shorten(str(error))
        raise CheckpointError(f"model: cannot fetch {name!r} from the hub: {reason}") from error
