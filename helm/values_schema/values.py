"""The values of the chart, as types. values.yaml has their defaults and their meaning.

Keys are written as values.yaml writes them, and none has a default here. What several
values mean together is checked in templates/_checks.tpl, where it can be put into one line.
"""

from typing import Annotated, Any, Literal, Required

from pydantic import Field, with_config
from typing_extensions import TypedDict

from lengthwise_autoscaler.config import AutoscalerConfig
from lengthwise_decode_worker.config import DecodeWorkerConfig
from lengthwise_flexible_worker.config import FlexibleWorkerConfig
from lengthwise_policy.objectives import Objectives
from lengthwise_prefill_worker.config import PrefillWorkerConfig
from lengthwise_router.config import RouterConfig
from lengthwise_runtime.config import STRICT
from lengthwise_runtime.logs import LogFormat
from lengthwise_worker.config import WorkerConfig
from values_schema.demands import config_by_role, strict_and, weights_by_source, where_enabled

QUANTITY = r"[0-9]+(\.[0-9]+)?([kMGT]|[KMGT]i)?"

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Interval = Annotated[str, Field(pattern="^[0-9]+(ms|s|m)$")]
Size = Annotated[str, Field(pattern=rf"^{QUANTITY}$")]
OptionalSize = Annotated[str, Field(pattern=rf"^({QUANTITY})?$")]
OptionalUrl = Annotated[str, Field(pattern="^(https?://[^ ]+)?$")]
Name = Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?$")]
Strings = dict[str, str]
# Kubernetes knows these better, and checks them when it gets them.
Peer = dict[str, Any]
Toleration = dict[str, Any]


@with_config(STRICT)
class Image(TypedDict, total=False):
    repository: Text
    tag: str
    pullPolicy: Literal["IfNotPresent", "Always", "Never"]
    pullSecrets: list[str]


@with_config(STRICT)
class Logs(TypedDict, total=False):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    format: LogFormat


@with_config(STRICT)
class Claim(TypedDict, total=False):
    name: str
    path: str


@with_config(STRICT)
class Hub(TypedDict, total=False):
    id: str
    tokenSecret: str


@with_config(STRICT)
class Download(TypedDict, total=False):
    url: str
    tokenSecret: str


@with_config(STRICT)
class Weights(TypedDict, total=False):
    """Where the checkpoint comes from; a pool may have another than the release."""

    source: Literal["demo", "claim", "hub", "download"]
    claim: Claim
    hub: Hub
    download: Download
    volumeSize: Size


@with_config(strict_and(weights_by_source))
class Model(Weights, total=False):
    name: str


@with_config(STRICT)
class Resources(TypedDict, total=False):
    requests: dict[str, Any]
    limits: dict[str, Any]


@with_config(STRICT)
class Spread(TypedDict):
    topologyKey: Text
    maxSkew: AtLeastOne
    whenUnsatisfiable: Literal["ScheduleAnyway", "DoNotSchedule"]


@with_config(STRICT)
class Rollout(TypedDict, total=False):
    maxSurge: int | str
    maxUnavailable: int | str


@with_config(STRICT)
class Autoscale(TypedDict, total=False):
    enabled: bool
    min: Count
    max: AtLeastOne


class PodSettings(TypedDict, total=False):
    resources: Resources
    nodeSelector: Strings
    tolerations: list[Toleration]
    priorityClassName: str
    podAnnotations: Strings


class WorkerSettings(PodSettings, total=False):
    device: Literal["cpu", "cuda"]
    drainSeconds: AtLeastOne
    startSeconds: AtLeastOne
    topologySpread: list[Spread]
    rollout: Rollout
    runtimeClassName: str
    sharedMemory: OptionalSize
    autoscale: Autoscale
    model: Weights


@with_config(STRICT)
class PoolDefaults(WorkerSettings, total=False):
    config: WorkerConfig


@with_config(strict_and(config_by_role))
class Pool(WorkerSettings, total=False):
    name: Required[Name]
    role: Required[Literal["prefill", "decode"]]
    replicas: Required[Count]
    lengthClass: Literal["", "short", "long"]
    flexible: bool
    config: PrefillWorkerConfig | DecodeWorkerConfig | FlexibleWorkerConfig


@with_config(STRICT)
class Router(PodSettings, total=False):
    replicas: AtLeastOne
    drainSeconds: AtLeastOne
    config: RouterConfig


@with_config(STRICT)
class Prometheus(TypedDict, total=False):
    url: OptionalUrl
    bearerTokenSecret: str
    authoritySecret: str


@with_config(STRICT)
class Autoscaler(PodSettings, total=False):
    enabled: bool
    replicas: AtLeastOne
    dryRun: bool
    prometheus: Prometheus
    restrictPodPatches: bool
    config: AutoscalerConfig


@with_config(STRICT)
class Service(TypedDict, total=False):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"]
    port: Port
    annotations: Strings


@with_config(where_enabled(issuerRef={"required": ["name"]}))
class CertManager(TypedDict, total=False):
    enabled: bool
    issuerRef: dict[str, Any]


@with_config(STRICT)
class ClientTls(TypedDict, total=False):
    secretName: str
    mutual: bool


@with_config(where_enabled(secretName={"minLength": 1}))
class Tls(TypedDict, total=False):
    enabled: bool
    secretName: str
    workerSecretName: str
    autoscalerSecretName: str
    mutual: bool
    clients: ClientTls
    metrics: bool
    certManager: CertManager


@with_config(STRICT)
class NetworkPolicy(TypedDict, total=False):
    enabled: bool
    clients: list[Peer]
    metrics: list[Peer]


@with_config(STRICT)
class Switch(TypedDict, total=False):
    enabled: bool


@with_config(STRICT)
class PodMonitor(TypedDict, total=False):
    enabled: bool
    interval: Interval
    labels: Strings


@with_config(STRICT)
class Labelled(TypedDict, total=False):
    enabled: bool
    labels: Strings


@with_config(STRICT)
class Severities(TypedDict):
    critical: str
    warning: str


@with_config(STRICT)
class PrometheusRule(TypedDict, total=False):
    enabled: bool
    labels: Strings
    severities: Severities
    runbookUrl: str


@with_config(STRICT)
class ServiceAccount(TypedDict, total=False):
    annotations: Strings


@with_config(STRICT)
class Values(TypedDict, total=False):
    global_: Annotated[dict[str, Any], Field(alias="global")]  # Helm's own
    image: Image
    model: Model
    objectives: Objectives
    logs: Logs
    router: Router
    pools: Annotated[list[Pool], Field(min_length=1)]
    poolDefaults: PoolDefaults
    autoscaler: Autoscaler
    service: Service
    tls: Tls
    networkPolicy: NetworkPolicy
    podDisruptionBudget: Switch
    podMonitor: PodMonitor
    prometheusRule: PrometheusRule
    dashboards: Labelled
    serviceAccount: ServiceAccount
