"""Where a checkpoint lies: a folder on this machine, or a repository on the Hugging Face hub.

The rule: a folder of the given name always wins, and only files the engine reads are downloaded.
"""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from lengthwise_engine.errors import CheckpointError


def resolve_checkpoint(name: str) -> Path:
    """A folder of that name if there is one, else the Hugging Face repository, downloaded."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise CheckpointError(
            f"{name}: neither a folder nor a repository that can be downloaded: {error}"
        ) from error
