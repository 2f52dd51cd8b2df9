"""A model of transformers without weights, run once: its calls of the attention are its spec.

No list says what an architecture's layers are; how many heads a call has, how wide they are, which
window its mask has and what happens to its scores is seen as it is computed, on torch's meta
device. What is not seen there, such as layers that keep other state, is refused.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

import torch

from lengthwise_checkpoint.architectures import read_foreign_limits
from lengthwise_checkpoint.config_json import ConfigJson, shorten
from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_checkpoint.families import read_dtype
from lengthwise_engine.models.foreign.registry import Transformers
from lengthwise_engine.models.foreign.spec import AttentionCall, ForeignSpec

_NAME: Final = "lengthwise_probe"
_TOKENS: Final = 7
_KNOWN: Final = {"sliding_window", "softcap", "s_aux", "position_ids", "is_causal"}
"""Of what attention is called with beside queries, keys, values, mask and scale: what is computed,
or says nothing new."""
_HARMLESS: Final = {"dropout", "use_cache", "training", "output_attentions", "output_router_logits"}
_STATEFUL: Final = (torch.nn.Conv1d, torch.nn.RNNBase)
"""Modules that look at tokens before."""


class _Probe:
    """What the attention is called with."""

    def __init__(self, config: ConfigJson) -> None:
        self.calls: list[AttentionCall] = []
        self._config = config
        self._windows: dict[int, int | None] = {}
        self._masks: list[torch.Tensor] = []  # kept, so that no other gets the id of one

    def mask(
        self,
        batch_size: int,
        q_length: int,
        kv_length: int,
        mask_function: Callable[..., Any],
        local_size: int | None = None,
        **_: object,
    ) -> torch.Tensor:
        """Stands for a mask that transformers describes by a function."""
        mask = torch.empty(batch_size, 1, q_length, kv_length, dtype=torch.bool, device="meta")
        if not _is_window(mask_function, local_size):
            message = "its layers see other tokens than all before, or the last so many"
            raise self._config.unsupported("model_type", message)
        self._masks.append(mask)
        self._windows[id(mask)] = local_size
        return mask

    def attend(
        self,
        module: torch.nn.Module,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **more: Any,
    ) -> tuple[torch.Tensor, None]:
        """Of [1, heads, tokens, size] each."""
        if id(attention_mask) not in self._windows:
            message = "its attention has a mask of its own, or none"
            raise self._config.unsupported("model_type", message)
        given = {key for key, value in more.items() if value is not None}
        if unknown := given - _KNOWN - _HARMLESS:
            message = f"its attention is given {', '.join(sorted(unknown))}, which is not supported"
            raise self._config.unsupported("model_type", message)
        cap = more.get("softcap")
        self.calls.append(
            AttentionCall(
                num_heads=queries.shape[1],
                num_kv_heads=keys.shape[1],
                key_size=keys.shape[-1],
                value_size=values.shape[-1],
                window=self._windows[id(attention_mask)],
                scale=queries.shape[-1] ** -0.5 if scaling is None else float(scaling),
                cap=None if cap is None else float(cap),
                has_sinks=more.get("s_aux") is not None,
            )
        )
        attended = values.new_empty(1, queries.shape[2], queries.shape[1], values.shape[-1])
        return attended, None


def refuse_settings(
    config: ConfigJson, tensor_parallel_size: int, quantization: str, has_adapters: bool = False
) -> None:
    """Raises `UnsupportedModel` for those that native models alone have."""
    for key, wanted in (
        ("tensor_parallel_size 1", tensor_parallel_size == 1),
        ("quantization none", quantization == "none"),
    ):
        if not wanted:
            message = f"a model that is computed by transformers' code needs {key}; set it"
            raise config.unsupported("model_type", message)
    if has_adapters:
        message = (
            "adapters are added to projections of native models alone, and this one is computed by"
            " transformers' code; serve it without adapters"
        )
        raise config.unsupported("model_type", message)


def read_foreign_spec(config: ConfigJson) -> ForeignSpec:
    """Builds and runs the model without its weights: takes a second or two.

    Raises `UnsupportedModel` with the reason why it cannot be served, `CheckpointError` where
    transformers does not accept its config.
    """
    library = Transformers(config)
    settings = library.read()
    library.modeling.ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend)
    library.masking.ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, _mask)
    model = _build(library, settings, config)
    probe = _Probe(config)
    token = _probe.set(probe)
    try:
        _run(model, config)
    finally:
        _probe.reset(token)
    return _spec(config, settings, model, probe.calls)


_probe: ContextVar[_Probe] = ContextVar("the model that is tried")


def _attend(*args: Any, **more: Any) -> tuple[torch.Tensor, None]:
    return _probe.get().attend(*args, **more)


def _mask(**given: Any) -> torch.Tensor:
    return _probe.get().mask(**given)


def _build(library: Transformers, settings: Any, config: ConfigJson) -> Any:
    make = library.package.AutoModelForCausalLM.from_config
    try:
        with torch.device("meta"):
            model = make(settings, attn_implementation=_NAME, trust_remote_code=False).eval()
        # Of those that compute mixtures of experts the only one without a loop over data.
        model.set_experts_implementation("batched_mm")
    except Exception as error:
        message = f"transformers cannot build it: {shorten(str(error))}"
        raise config.unsupported("model_type", message) from error
    kept = [type(module).__name__ for module in model.modules() if isinstance(module, _STATEFUL)]
    if kept or getattr(model, "_is_stateful", False):
        what = f" ({kept[0]})" if kept else ""
        message = f"has layers that keep state{what}, which the KV cache has no room for"
        raise config.unsupported("model_type", message)
    _refuse_rotations(model, config)
    return model


def _refuse_rotations(model: Any, config: ConfigJson) -> None:
    """Frequencies that grow with a sequence would not be those of its cached keys."""
    for module in model.modules():
        kinds: Any = getattr(module, "rope_type", "")
        by_layer = isinstance(kinds, dict)
        found = kinds.values() if by_layer else [kinds]
        for kind in found:
            if "dynamic" in kind or (by_layer and kind == "longrope"):
                where = " of a kind of layer" * by_layer
                message = f"type {kind!r}{where} is not supported: it depends on a prompt's length"
                raise config.unsupported("rope_scaling", message)


@torch.inference_mode()
def _run(model: Any, config: ConfigJson) -> None:
    tokens = torch.zeros(1, _TOKENS, dtype=torch.int64, device="meta")
    try:
        model(
            input_ids=tokens,
            position_ids=tokens,
            attention_mask=torch.ones(1, _TOKENS, dtype=torch.bool, device="meta"),
            use_cache=False,
        )
    except CheckpointError:
        raise
    except Exception as error:
        message = f"transformers' model cannot be run as a decoder: {shorten(str(error))}"
        raise config.unsupported("model_type", message) from error


def _spec(config: ConfigJson, settings: Any, model: Any, calls: list[AttentionCall]) -> ForeignSpec:
    text = settings.get_text_config()
    num_layers = int(getattr(text, "num_hidden_layers", len(calls)))
    if len(calls) < num_layers:
        message = (
            f"only {len(calls)} of {num_layers} layers compute attention through transformers'"
            " interface; others keep state, share keys, or have attention of their own"
        )
        raise config.unsupported("model_type", message)
    kv_heads = {call.num_kv_heads for call in calls}
    if len(kv_heads) > 1:
        message = f"layers have different numbers of key heads: {sorted(kv_heads)}"
        raise config.unsupported("model_type", message)
    limits = read_foreign_limits(config)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    is_tied = head is not None and head.weight is embedding.weight
    return ForeignSpec(
        model_type=config.text("model_type"),
        context_length=limits.context_length,
        vocab_size=limits.vocab_size,
        num_layers=len(calls),
        num_kv_heads=kv_heads.pop(),
        head_dim=max(max(call.key_size, call.value_size) for call in calls),
        dtype=read_dtype(config),
        calls=tuple(calls),
        num_parameters=sum(weight.numel() for weight in model.parameters()),
        num_tied_parameters=embedding.weight.numel() if is_tied else 0,
        step_width=_step_width(model, text, {id(embedding.weight), id(getattr(head, "weight", 0))}),
    )


def _step_width(model: Any, settings: Any, outside: set[int]) -> int:
    """Of the widest matrix of a layer, thrice, for each expert that a token goes to, and four
    copies of the residual; measured of no architecture, for each keeps others."""
    inside = [each for each in model.parameters() if each.dim() > 1 and id(each) not in outside]
    widest = max((max(weight.shape[-2:]) for weight in inside), default=0)
    experts = getattr(settings, "num_experts_per_tok", None) or 1
    return int(4 * settings.hidden_size + 3 * widest * experts)


def _is_window(mask_function: Callable[..., Any], size: int | None) -> bool:
    """Whether a query sees the last `size` tokens up to its own (None: all), tried where windows
    and chunks of that size end."""
    ends = (0, 1, 5) if size is None else (0, size - 1, size, size + 1, 2 * size)
    places = sorted({max(0, end + step) for end in ends for step in (-1, 0, 1)})
    zero = torch.tensor(0)
    try:
        return all(
            bool(mask_function(zero, zero, torch.tensor(query), torch.tensor(key)))
            == (key <= query and (size is None or key > query - size))
            for query in places
            for key in places
        )
    except (RuntimeError, IndexError):  # it looks up what is not a number of a token
        return False
