"""RouterConfig: everything an operator may set on a router."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict

from lengthwise_checkpoint.hub import model_name
from lengthwise_policy.checks import require_at_least, require_at_most
from lengthwise_policy.decode.gathering import LONGEST_INTERVAL_SECONDS
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.placement.policy import PlacementPolicy, PoolPolicy
from lengthwise_policy.placement.strategies import DEFAULT_STRATEGY, STRATEGIES
from lengthwise_runtime.config import STRICT
from lengthwise_runtime.tls.config import TlsConfig
from lengthwise_runtime.tracing.config import RouterTracingConfig

MAX_NAME_CHARACTERS = 128
"""Of a model: it is a label of metrics, and refusals list all."""

RequestLogLevel = Literal["OFF", "DEBUG", "INFO", "WARNING"]
ToolParserName = Literal["auto", "none", "hermes", "llama3_json", "mistral", "qwen3_coder"]
ReasoningParserName = Literal["auto", "none", "think"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesConfig:
    """Services whose ready endpoints, at the port named grpc, are workers."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    services: tuple[str, ...]  # their names
    namespace: str = ""  # empty: the router's own

    def __post_init__(self) -> None:
        if not self.services:
            raise ValueError("services: got none, expected the name of at least one Service")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryConfig:
    """Where the workers are: exactly one of the three is set."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    endpoints: tuple[str, ...] = ()  # host:port of every worker, whatever its role
    folder: Path | None = None  # in which workers announce themselves
    kubernetes: KubernetesConfig | None = None  # whose Services have the workers

    def __post_init__(self) -> None:
        given = [bool(self.endpoints), self.folder is not None, self.kubernetes is not None]
        if sum(given) != 1:
            raise ValueError(
                "expected either endpoints or folder or kubernetes, got"
                f" endpoints={list(self.endpoints)}, folder={self.folder} and"
                f" kubernetes={self.kubernetes}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModelConfig:
    """One of several models."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    # Checkpoint folder, .gguf file or hub id: tokenizer, chat template and limits come from it.
    model: str
    served_name: str = ""  # what requests and workers call it; empty: the last part of `model`
    objectives: Objectives | None = None  # not given: the router's
    tool_parser: ToolParserName | None = None  # not given: the router's
    reasoning_parser: ReasoningParserName | None = None  # not given: the router's

    @property
    def name(self) -> str:
        return self.served_name or model_name(self.model)

    def __post_init__(self) -> None:
        if not self.name.isprintable() or not 1 <= len(self.name) <= MAX_NAME_CHARACTERS:
            raise ValueError(
                f"served_name: got {self.name[:MAX_NAME_CHARACTERS]!r}, expected 1 to"
                f" {MAX_NAME_CHARACTERS} printable characters"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """Clients that speak HTTP, as OpenAI's API does. TLS and who may call are as for gRPC."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    listen: str = ""  # host:port; empty: no HTTP
    page: bool = True  # at `/`: a chat, what became of its last request, the workers now
    cors_origins: tuple[str, ...] = ()  # of pages whose scripts may call; none: no page's


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysConfig:
    """API keys, which every call needs then, over gRPC and HTTP."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    file: Path  # YAML with an entry for each holder (docs/keys.md), read again when it changes
    router_replicas: int = 1  # routers that share the keys' limits: each allows its part of them

    def __post_init__(self) -> None:
        require_at_least("router_replicas", self.router_replicas, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """Keys of the router's configuration file."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    discovery: DiscoveryConfig  # where the workers are
    # Checkpoint folder, .gguf file or hub id: tokenizer, chat template and limits come from it.
    model: str = ""
    served_name: str = ""  # what requests and workers call it; empty: the last part of `model`
    models: tuple[ServedModelConfig, ...] = ()  # instead of `model`, where several are served
    listen: str = "127.0.0.1:50051"  # for gRPC; port 0: any
    http: HttpConfig = field(default_factory=HttpConfig)  # OpenAI's API
    metrics_listen: str = "127.0.0.1:9090"  # port 0: any; empty: no metrics
    announce_folder: Path | None = None  # where it writes a note with its address; unset: none
    advertise_host: str = "127.0.0.1"  # what is announced where `listen` names all interfaces
    tls: TlsConfig | None = None  # of its port and towards workers; unset: none
    metrics_tls: TlsConfig | None = None  # with `authority`, probes need a certificate too
    # Of the port that clients call, where it differs: another certificate, another authority of
    # theirs, or none, so that they need no certificate.
    client_tls: TlsConfig | None = None
    keys: KeysConfig | None = None  # unset: no call needs a key
    # Names in certificates of callers that speak for others, such as a gateway, or names of their
    # API keys: their requests count for the tenant that they declare. Any other is a tenant itself.
    gateways: tuple[str, ...] = ()
    # Callers with different certificates, or API keys of different names, share no cached prefixes.
    separate_tenants: bool = True

    strategy: str = DEFAULT_STRATEGY  # how workers are chosen (docs/policies.md)
    local_prefill: bool = True  # decode workers may compute prompts too, where that is sooner
    pools: PoolPolicy = field(default_factory=PoolPolicy)  # of the strategy length_pools
    # Of all clients together, for each served model: none takes another's places.
    max_requests_in_flight: int = 1024
    max_queued: int = 256  # requests that wait for one of those; 0: all others are refused
    # Requests predicted to get their first token later than so many times the objective are
    # refused at once. 0: none is, for late may be better than never.
    shed_factor: float = 0.0
    max_attempts: int = 8  # the first included; failed links and busy workers do not count
    tool_parser: ToolParserName = "auto"  # how models write calls; auto: as their templates do
    reasoning_parser: ReasoningParserName = "auto"  # how they mark reasoning: likewise
    tokenizer_threads: int = 2  # that tokenise the prompts of one model
    # The last requests, which can be explained: 4 KiB each, 21 at worst. 0: none.
    explained_requests: int = 4096
    # Of the one line per request that has ended, without its text: OFF, DEBUG, INFO or WARNING.
    request_log_level: RequestLogLevel = "INFO"
    tracing: RouterTracingConfig = field(default_factory=RouterTracingConfig)  # of requests

    objectives: Objectives = field(default_factory=Objectives)  # metrics count what met them

    # A request's phases. Lost workers are noticed much earlier than these end.
    default_deadline_seconds: float = 600.0  # of calls that bring none
    no_worker_seconds: float = 10.0  # a request waits this long for a path that has not failed it
    reserve_timeout_seconds: float = 60.0  # waiting for blocks at one decode worker
    prefill_timeout_seconds: float = 120.0  # queue and computation at one prefill worker
    transfer_timeout_seconds: float = 5.0  # from the first token to the decode worker's first
    token_timeout_seconds: float = 30.0  # between two tokens while the worker does run steps

    heartbeat_timeout_seconds: float = 2.0  # a worker silent for longer is lost
    step_stall_seconds: float = 5.0  # a worker with running requests and no step for longer is lost

    keepalive_seconds: float = 1.0  # a silent response stream gets an empty message
    # Tokens of a request that are closer together than this share a message. The more requests run
    # at a decode worker, the longer it gathers them: 0.05 s at most, or this if it is longer. 0:
    # every token leaves at once.
    message_interval_seconds: float = 0.02
    drain_seconds: float = 30.0  # for requests in flight after SIGTERM

    @property
    def placement(self) -> PlacementPolicy:
        return PlacementPolicy(
            local_prefill=self.local_prefill, objectives=self.objectives, pools=self.pools
        )

    @property
    def served(self) -> tuple[ServedModelConfig, ...]:
        """One or several."""
        if self.models:
            return self.models
        return (ServedModelConfig(model=self.model, served_name=self.served_name),)

    def of(self, served: ServedModelConfig) -> "RouterConfig":
        """As a router that serves this model alone would be configured."""
        return replace(
            self,
            model=served.model,
            served_name=served.name,
            models=(),
            objectives=served.objectives or self.objectives,
            tool_parser=served.tool_parser or self.tool_parser,
            reasoning_parser=served.reasoning_parser or self.reasoning_parser,
        )

    def __post_init__(self) -> None:
        if bool(self.model) == bool(self.models) or (self.models and self.served_name):
            raise ValueError(
                f"expected either model or models, got model={self.model!r},"
                f" served_name={self.served_name!r} and {len(self.models)} models"
            )
        names = [served.name for served in self.served]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"models: got {name!r} {names.count(name)} times, expected each name once; give"
                    " all but one another served_name"
                )
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"strategy: got {self.strategy!r}, expected one of {', '.join(sorted(STRATEGIES))}"
            )
        for name in ("max_requests_in_flight", "max_attempts", "tokenizer_threads"):
            require_at_least(name, getattr(self, name), 1)
        for name in (
            "default_deadline_seconds",
            "reserve_timeout_seconds",
            "prefill_timeout_seconds",
            "transfer_timeout_seconds",
            "token_timeout_seconds",
            "heartbeat_timeout_seconds",
            "step_stall_seconds",
            "keepalive_seconds",
        ):
            require_at_least(name, getattr(self, name), 0.01)
        require_at_least("max_queued", self.max_queued, 0)
        require_at_least("shed_factor", self.shed_factor, 0.0)
        require_at_least("explained_requests", self.explained_requests, 0)
        for name in ("no_worker_seconds", "message_interval_seconds", "drain_seconds"):
            require_at_least(name, getattr(self, name), 0.0)
        require_at_most(
            "message_interval_seconds", self.message_interval_seconds, LONGEST_INTERVAL_SECONDS
        )
