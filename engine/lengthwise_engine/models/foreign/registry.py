"""What of transformers is used: found when it is first needed, for it is an extra."""

import importlib
import logging
from pathlib import Path
from typing import Any, Final

from lengthwise_checkpoint.config_json import ConfigJson, shorten

MISSING: Final = (
    "is computed by transformers' code, which is not installed: pip install"
    " 'lengthwise[transformers]'"
)


class Transformers:
    """The package, its messages silenced but for errors."""

    def __init__(self, config: ConfigJson) -> None:
        """Raises `UnsupportedModel` where it is not installed."""
        model_type = config.text("model_type")
        try:
            self.package: Any = importlib.import_module("transformers")
            self.modeling: Any = importlib.import_module("transformers.modeling_utils")
            self.masking: Any = importlib.import_module("transformers.masking_utils")
            self.auto: Any = importlib.import_module("transformers.models.auto.modeling_auto")
        except ImportError as error:
            message = f"{model_type!r} {MISSING}"
            raise config.unsupported("model_type", message) from error
        logging.getLogger("transformers").setLevel(logging.ERROR)
        self.package.utils.logging.disable_progress_bar()
        if model_type not in self.auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            remote = "; code that comes with a checkpoint is not run" * ("auto_map" in config)
            raise config.unsupported(
                "model_type",
                f"transformers {self.package.__version__} has no language model {model_type!r}"
                f"{remote}",
            )
        self._config = config

    def read(self) -> Any:
        """Its own view of the checkpoint's config.json. Raises `CheckpointError`."""
        folder: Path = self._config.path.parent
        try:
            return self.package.AutoConfig.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
        except Exception as error:  # it has no tree of errors
            raise self._config.error("", f"transformers: {shorten(str(error))}") from error
