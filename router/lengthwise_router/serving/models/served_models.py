"""Which model a request means."""

from collections.abc import Collection, Iterable, Iterator

from lengthwise_router.config import MAX_NAME_CHARACTERS
from lengthwise_router.serving.models.served_model import ServedModel
from lengthwise_wire.errors import InvalidRequest, ModelNotFound

MAX_LISTED = 20
"""Names in a refusal, which has to fit into a status."""


class ServedModels:
    """In the order of their names."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = {model.name: model for model in sorted(models, key=lambda model: model.name)}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def among(self, names: Collection[str] | None) -> "ServedModels":
        """Those of these names; None: all."""
        if names is None:
            return self
        return ServedModels(model for model in self if model.name in names)

    def find(self, name: str) -> ServedModel:
        """By its very name, or the only one by none.

        Errors: ModelNotFound; InvalidRequest where there is none and several are served.
        """
        if name in self._models:
            return self._models[name]
        if name:
            shown = repr(name) if len(name) <= MAX_NAME_CHARACTERS else f"{len(name)} characters"
            raise ModelNotFound(f"model: got {shown}, this router serves {self._listed()}")
        if not self._models:
            raise ModelNotFound("model: this router serves none that this API key may use")
        if len(self._models) > 1:
            raise InvalidRequest(f"model: got none, expected one of {self._listed()}")
        return next(iter(self._models.values()))

    def _listed(self) -> str:
        names = [repr(name) for name in self._models]
        more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        return (", ".join(names[:MAX_LISTED]) + more) or "none that this API key may use"
