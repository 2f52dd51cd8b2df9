"""Where traces go, and of how many requests."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict

from lengthwise_runtime.config import STRICT, ConfigError

if TYPE_CHECKING:  # its extra need not be installed
    from lengthwise_runtime.tracing.tracer import Tracer


# No slots: routers have a key more.
@dataclass(frozen=True, kw_only=True)
class TracingConfig:
    """Workers continue the traces of requests that routers trace."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    # Of an OTLP collector's gRPC port, http://host:4317 or https://host:4317; empty: no traces.
    endpoint: str = ""

    def __post_init__(self) -> None:
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(
                f"endpoint: got {self.endpoint!r}, expected http://host:4317 or https://host:4317"
            )


@dataclass(frozen=True, kw_only=True)
class RouterTracingConfig(TracingConfig):
    """Routers decide which requests are traced."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    # Of the requests whose caller sends no trace context: with one, the caller has decided.
    sampling_ratio: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.sampling_ratio <= 1.0:
            raise ValueError(f"sampling_ratio must lie in [0, 1], got {self.sampling_ratio}")


def tracer_of(config: TracingConfig, service: str, instance: str) -> "Tracer | None":
    """None where traces are off. `service` and `instance` name the process in them.

    Errors: ConfigError where OpenTelemetry is not installed.
    """
    if not config.endpoint:
        return None
    try:
        from lengthwise_runtime.tracing.tracer import Tracer
    except ImportError as error:
        raise ConfigError(
            f'tracing: {error}; install what it needs: pip install "lengthwise[tracing]"'
        ) from error
    ratio = config.sampling_ratio if isinstance(config, RouterTracingConfig) else 0.0
    return Tracer(config.endpoint, ratio, service, instance)
