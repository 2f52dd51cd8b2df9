"""Which model a request means."""

from collections.abc import Collection, Iterable, Iterator

from lengthwise_router.config import MAX_NAME_CHARACTERS
from lengthwise_router.serving.models.served_model import MAX_LISTED, SEPARATOR, ServedModel
from lengthwise_wire.errors import InvalidRequest, ModelNotFound


class ServedModels:
    """In the order of their names."""

    def __init__(self, models: Iterable[ServedModel], names: Collection[str] | None = None) -> None:
        """`names`: that may be asked for, of models and of adapters; None: all of them."""
        self._models = {model.name: model for model in sorted(models, key=lambda model: model.name)}
        self._names = names

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def among(self, names: Collection[str] | None) -> "ServedModels":
        """Those of these names; None: all."""
        if names is None:
            return self
        wanted = {*names, *(name.rpartition(SEPARATOR)[0] for name in names)}
        return ServedModels((model for model in self if model.name in wanted), names)

    def allows(self, name: str) -> bool:
        """Whether it may be asked for. Who may ask for a model may ask for its adapters."""
        base = name.rpartition(SEPARATOR)[0]
        return self._names is None or name in self._names or base in self._names

    def find(self, name: str) -> ServedModel:
        """By its very name, by that of it with an adapter, or the only one by none.

        Errors: ModelNotFound; InvalidRequest where there is none and several are served.
        """
        meant = next(iter(self._models)) if not name and len(self._models) == 1 else name
        found = self._models.get(meant) or self._models.get(meant.rpartition(SEPARATOR)[0])
        if found is not None and self.allows(meant):
            return found
        if name:
            shown = repr(name) if len(name) <= MAX_NAME_CHARACTERS else f"{len(name)} characters"
            raise ModelNotFound(f"model: got {shown}, this router serves {self._listed()}")
        if not self._models:
            raise ModelNotFound("model: this router serves none that this API key may use")
        raise InvalidRequest(f"model: got none, expected one of {self._listed()}")

    def _listed(self) -> str:
        more_names = (name for name in self._names or () if name not in self._models)
        adapted = [name for name in more_names if name.rpartition(SEPARATOR)[0] in self._models]
        names = (*self._models, *adapted)
        shown = [repr(name) for name in names if self.allows(name)]
        more = f" and {len(shown) - MAX_LISTED} more" if len(shown) > MAX_LISTED else ""
        return (", ".join(shown[:MAX_LISTED]) + more) or "none that this API key may use"
