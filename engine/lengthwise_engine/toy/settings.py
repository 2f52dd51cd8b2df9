"""What the toy model has nothing of."""

from lengthwise_checkpoint.config_json import ConfigJson


def refuse_toy_settings(
    config: ConfigJson, tensor_parallel_size: int, quantization: str, has_adapters: bool
) -> None:
    """Raises `UnsupportedModel`."""
    for message, is_asked in (
        ("has one rank only; set tensor_parallel_size to 1", tensor_parallel_size > 1),
        ("has no projections; set quantization to none", quantization != "none"),
        ("has no projections; serve it without adapters", has_adapters),
    ):
        if is_asked:
            raise config.unsupported("model_type", f"the toy model {message}")
