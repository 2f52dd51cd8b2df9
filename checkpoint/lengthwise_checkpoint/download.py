"""A repository of the Hugging Face hub, fetched by its own client, which shows how far it has come
by bars of tqdm's: here as the project shows a load."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from tqdm import tqdm

from lengthwise_checkpoint.progress import ByteProgress


def download(repository: str, revision: str | None, files: Sequence[str]) -> Path:
    """The folder of the repository's `files`. Raises whatever the hub's client raises."""
    progress = ByteProgress(f"fetching {repository}", f"fetched {repository}")
    bars: list[tqdm] = []

    class Bar(tqdm):  # type: ignore[misc]  # it has no types
        """Draws nothing. Of the bars that count bytes, which depend on the client's version and the
        way of transfer, the one that is furthest is told."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})
            self.counts_bytes = options.get("unit") == "B"
            if self.counts_bytes:
                bars.append(self)

        def update(self, n: float | None = 1) -> None:
            if not self.counts_bytes:
                return
            self.n += n or 0
            progress.total = max(int(bar.total or 0) for bar in bars)
            progress.reach(max(int(bar.n) for bar in bars))

    folder = snapshot_download(
        repository, revision=revision, allow_patterns=list(files), tqdm_class=Bar
    )
    if progress.total:
        progress.finish()
    return Path(folder)


def list_files(repository: str, revision: str | None) -> list[str]:
    """The paths of all files of the repository; none where the hub is not to be asked. Raises
    whatever the hub's client raises."""
    if constants.HF_HUB_OFFLINE:
        return []
    return HfApi().list_repo_files(repository, revision=revision)
