"""The values of the chart, as types. values.yaml has their defaults and their meaning.

Keys are written as values.yaml writes them, and none has a default here. What several
values mean together is checked in templates/_checks.tpl, where it can be put into one line.
"""

from typing import Annotated, Any, Literal, Required

from pydantic import ConfigDict, Field, with_config
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
from values_schema.monitoring import Dashboards, PodMonitor, PrometheusRule, Tracing

QUANTITY = r"[0-9]+(\.[0-9]+)?([kMGT]|[KMGT]i)?"

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Size = Annotated[str, Field(pattern=rf"^{QUANTITY}$")]
OptionalSize = Annotated[str, Field(pattern=rf"^({QUANTITY})?$")]
OptionalUrl = Annotated[str, Field(pattern="^(https?://[^ ]+)?$")]
Name = Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?$")]
NameOverride = Annotated[str, Field(pattern="^([a-z]([-a-z0-9]{0,38}[a-z0-9])?)?$")]
Strings = dict[str, str]
# Kubernetes knows these better, and checks them when it gets them.
Peer = dict[str, Any]
Toleration = dict[str, Any]
Affinity = dict[str, Any]
SecurityContext = dict[str, Any]
EnvironmentSource = dict[str, Any]


@with_config(STRICT)
class Image(TypedDict, total=False):
    repository: Text  # with its registry
    tag: str
    digest: Annotated[str, Field(pattern="^(sha256:[0-9a-f]{64})?$")]
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
    revision: Annotated[str, Field(pattern="^[^@ ]*$")]
    endpoint: OptionalUrl
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
class OwnObjectives(TypedDict, total=False):
    """Those of a model, as far as they differ from the release's."""

    ttft_short_seconds: float  # to the first token of a short prompt
    ttft_long_seconds: float  # to that of a long one
    tpot_seconds: float  # for each token after it


@with_config(STRICT)
class ServedModel(Weights, total=False):
    name: Required[Annotated[str, Field(min_length=1, max_length=128)]]  # what clients ask for
    objectives: OwnObjectives  # as far as they differ from the release's


@with_config(STRICT)
class Resources(TypedDict, total=False):
    requests: dict[str, Any]  # what a node needs to have left
    limits: dict[str, Any]  # what may be used at most; GPUs too


@with_config(STRICT)
class Spread(TypedDict):
    topologyKey: Text  # the label of nodes that tells places apart
    maxSkew: AtLeastOne  # how many pods more one place may have than another
    whenUnsatisfiable: Literal["ScheduleAnyway", "DoNotSchedule"]  # where that cannot be kept


@with_config(STRICT)
class Rollout(TypedDict, total=False):
    maxSurge: int | str  # pods, or percent of them, that may be there beside `replicas`
    maxUnavailable: int | str  # that may be missing meanwhile


@with_config(STRICT)
class Autoscale(TypedDict, total=False):
    enabled: bool
    min: Count
    max: AtLeastOne


@with_config(STRICT)
class EnvironmentVariable(TypedDict, total=False):
    name: Required[Text]  # of the variable
    value: str  # as text; numbers in quotes
    valueFrom: dict[str, Any]  # a key of a ConfigMap or Secret, a field of the pod


@with_config(ConfigDict(extra="allow"))
class Named(TypedDict):
    name: Text  # unique in the pod


@with_config(ConfigDict(extra="allow"))
class Mount(TypedDict):
    name: Text  # of the volume
    mountPath: Text  # in the container


@with_config(STRICT)
class ServiceAccount(TypedDict, total=False):
    create: bool
    name: str
    annotations: Strings


class PodSettings(TypedDict, total=False):
    """What means the same for every kind of pods."""

    env: list[EnvironmentVariable]
    envFrom: list[EnvironmentSource]
    extraVolumes: list[Named]
    extraVolumeMounts: list[Mount]
    initContainers: list[Named]
    extraContainers: list[Named]
    nodeSelector: Strings
    tolerations: list[Toleration]
    affinity: Affinity
    topologySpread: list[Spread]
    priorityClassName: str
    runtimeClassName: str
    podLabels: Strings
    podAnnotations: Strings
    podSecurityContext: SecurityContext
    securityContext: SecurityContext
    serviceAccount: ServiceAccount


@with_config(STRICT)
class PodDefaults(PodSettings, total=False):
    pass


class ComponentSettings(PodSettings, total=False):
    image: Image  # what differs from the release's image
    resources: Resources  # of the container


class WorkerSettings(ComponentSettings, total=False):
    device: Literal["cpu", "cuda"]
    drainSeconds: AtLeastOne
    startSeconds: AtLeastOne
    rollout: Rollout
    sharedMemory: OptionalSize
    autoscale: Autoscale
    model: str  # the name of the one that it serves; needed where there are several
    weights: Weights  # where these workers' come from, as far as that differs from the model's


@with_config(STRICT)
class PoolDefaults(WorkerSettings, total=False):
    config: WorkerConfig


@with_config(strict_and(config_by_role))
class Pool(WorkerSettings, total=False):
    name: Required[Name]  # of the pool, in its Deployment's name and the label lengthwise/pool
    role: Required[Literal["prefill", "decode"]]  # what its workers do
    replicas: Required[Count | None]
    """Where it is not autoscaled, and to begin with where it is; null: an HPA or KEDA says how
    many."""
    lengthClass: Literal["", "short", "long"]  # prompts meant for it; default: all. Prefill only
    flexible: bool  # the autoscaler may have its workers serve the other role; role is their first
    config: PrefillWorkerConfig | DecodeWorkerConfig | FlexibleWorkerConfig


@with_config(STRICT)
class Keys(TypedDict, total=False):
    secretName: str
    testSecretName: str


@with_config(STRICT)
class Router(ComponentSettings, total=False):
    replicas: AtLeastOne | None
    drainSeconds: AtLeastOne
    startSeconds: AtLeastOne
    keys: Keys
    config: RouterConfig


@with_config(STRICT)
class Prometheus(TypedDict, total=False):
    url: OptionalUrl
    bearerTokenSecret: str
    authoritySecret: str


@with_config(STRICT)
class Autoscaler(ComponentSettings, total=False):
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
    loadBalancerClass: str
    annotations: Strings


@with_config(STRICT)
class IngressPath(TypedDict, total=False):
    path: Text  # of URLs, which for gRPC begin with the name of the service
    pathType: Literal["Prefix", "Exact", "ImplementationSpecific"]  # how it is compared


@with_config(STRICT)
class IngressHost(TypedDict, total=False):
    host: Required[Text]  # name that clients connect to
    paths: list[IngressPath]  # default: all


@with_config(where_enabled(hosts={"minItems": 1}))
class Ingress(TypedDict, total=False):
    enabled: bool
    className: str
    annotations: Strings
    hosts: list[IngressHost]
    tls: list[dict[str, Any]]


@with_config(where_enabled(parentRefs={"minItems": 1}))
class HttpRoute(TypedDict, total=False):
    enabled: bool
    annotations: Strings
    parentRefs: list[dict[str, Any]]
    hostnames: list[Text]
    path: Annotated[str, Field(pattern="^/")]


@with_config(STRICT)
class Http(TypedDict, total=False):
    enabled: bool
    port: Port
    page: bool
    corsOrigins: list[Annotated[str, Field(pattern="^(https?://[^ /]+|[*])$")]]
    ingress: Ingress
    route: HttpRoute


@with_config(STRICT)
class Persistence(TypedDict, total=False):
    enabled: bool
    existingClaim: str
    size: Size
    storageClass: str
    accessModes: Annotated[
        list[Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]],
        Field(min_length=1),
    ]
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
class Values(TypedDict, total=False):
    global_: Annotated[
        dict[str, Any], Field(alias="global")
    ]  # Helm's own, for charts within charts
    nameOverride: NameOverride
    fullnameOverride: NameOverride
    commonLabels: Strings
    image: Image
    model: Model
    models: list[ServedModel]
    persistence: Persistence
    objectives: Objectives
    logs: Logs
    tracing: Tracing
    podDefaults: PodDefaults
    router: Router
    pools: Annotated[list[Pool], Field(min_length=1)]
    poolDefaults: PoolDefaults
    autoscaler: Autoscaler
    service: Service
    http: Http
    ingress: Ingress
    tls: Tls
    networkPolicy: NetworkPolicy
    podDisruptionBudget: Switch
    podMonitor: PodMonitor
    prometheusRule: PrometheusRule
    dashboards: Dashboards
    extraObjects: list[dict[str, Any] | str]
