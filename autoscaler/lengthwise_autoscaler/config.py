"""AutoscalerConfig: everything an operator may set on an autoscaler."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import ConfigDict

from lengthwise_policy.checks import require_at_least
from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.objectives import Objectives
from lengthwise_policy.scaling.policy import ScalingPolicy
from lengthwise_policy.scaling.state import Pool
from lengthwise_policy.types import Role
from lengthwise_runtime.config import STRICT
from lengthwise_runtime.tls.config import TlsConfig

SCRAPES_IN_WINDOW = 4
"""A rate needs two samples; with four, one missed scrape and unlucky edges leave two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusConfig:
    """Where metrics are read."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    url: str  # http://HOST:PORT, without credentials
    timeout_seconds: float = 5.0  # of all queries of one round together
    authority: Path | None = None  # PEM; unset: the system's
    bearer_token: Path | None = None  # read anew for each round, since tokens are rotated
    scrape_interval_seconds: float = 5.0  # at which it scrapes the release's pods
    window_seconds: float = 60.0  # that rates and percentiles are taken over

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            has_credentials = parts.username is not None or parts.password is not None
        except ValueError as error:
            raise ValueError(f"url: not an URL: {error}") from None
        # The message must not repeat what might be a password.
        if has_credentials:
            raise ValueError("url: credentials do not belong there; use bearer_token")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url: expected http://HOST:PORT or https://..., got {self.url!r}")
        if parts.query or parts.fragment:
            raise ValueError(f"url: expected no ? and no #, got {self.url!r}")
        require_at_least("timeout_seconds", self.timeout_seconds, 0.1)
        require_at_least("scrape_interval_seconds", self.scrape_interval_seconds, 0.1)
        least = SCRAPES_IN_WINDOW * self.scrape_interval_seconds
        if not self.window_seconds >= least:
            raise ValueError(
                f"window_seconds: expected at least {SCRAPES_IN_WINDOW} scrape intervals,"
                f" {least:g}, got {self.window_seconds:g}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """A Deployment of workers."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str  # the value of its pods' label lengthwise/pool
    role: Role  # as the pool is
    model: str = ""  # whose workers it has; empty: the only one that the release serves
    deployment: str = ""  # needed where it is sized
    length_class: LengthClass | None = None  # as the pool is; unset: all lengths
    min_replicas: int = 1  # 0: none while nothing arrives
    max_replicas: int = 1  # pods
    flexible: bool = False  # its workers change their role when asked
    fixed: bool = False  # never sized, but its workers share their group's work

    def __post_init__(self) -> None:
        require_at_least("min_replicas", self.min_replicas, 0)
        require_at_least("max_replicas", self.max_replicas, max(1, self.min_replicas))
        if not self.deployment and not self.fixed:
            raise ValueError(f"deployment: got nothing for pool {self.name!r}, which is sized")
        if self.length_class is not None and (self.role != "prefill" or self.flexible):
            raise ValueError(
                "length_class: only prefill pools that are not flexible have one,"
                f" got {self.length_class!r} for pool {self.name!r}"
            )

    @property
    def pool(self) -> Pool:
        return Pool(
            name=self.name,
            role=self.role,
            length_class=self.length_class,
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            flexible=self.flexible,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscalerConfig:
    """Keys of the autoscaler's configuration file."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    prometheus: PrometheusConfig  # that scrapes the release
    release: str  # label `release` of the metrics, app.kubernetes.io/instance of the pods
    lease: str  # name of the Lease that makes one of several autoscalers the leader
    pools: tuple[PoolConfig, ...]  # in order of preference: first out, last in
    namespace: str = ""  # empty: the ServiceAccount's, or the kubeconfig's context's
    identity: str = ""  # in the Lease; empty: the host's name, which is the pod's
    kubeconfig: Path | None = None  # unset: as the pod's ServiceAccount

    objectives: Objectives = field(default_factory=Objectives)  # the same as the routers'
    # Of models that have their own, by name.
    model_objectives: dict[str, Objectives] = field(default_factory=dict)

    interval_seconds: float = 5.0  # from one decision to the next
    scaling: ScalingPolicy = field(default_factory=ScalingPolicy)  # how it decides
    dry_run: bool = False  # decide and report, and change nothing
    metrics_listen: str = "127.0.0.1:9090"  # /metrics and /healthz; port 0: any; empty: none
    tls: TlsConfig | None = None  # towards workers
    metrics_tls: TlsConfig | None = None  # with `authority`, probes need a certificate too

    @property
    def sized_pools(self) -> tuple[PoolConfig, ...]:
        return tuple(pool for pool in self.pools if not pool.fixed)

    def __post_init__(self) -> None:
        if all(pool.fixed for pool in self.pools):
            raise ValueError("pools: got none that is sized, expected at least one")
        for key in ("name", "deployment"):
            counts = Counter(getattr(pool, key) for pool in self.pools)
            twice = sorted(value for value, count in counts.items() if value and count > 1)
            if twice:
                raise ValueError(f"pools: {key} {', '.join(twice)} is there more than once")
        models = {pool.model for pool in self.pools}
        if "" in models and len(models) > 1:
            unnamed = next(pool.name for pool in self.pools if not pool.model)
            raise ValueError(
                f"pools: got no model for pool {unnamed!r}, expected one, for other pools name"
                " theirs"
            )
        unknown = sorted(self.model_objectives.keys() - models)
        if unknown:
            raise ValueError(f"model_objectives: got {unknown[0]!r}, expected a model of the pools")
        for name in ("release", "lease"):
            if not getattr(self, name):
                raise ValueError(f"{name}: got nothing, expected a name")
        require_at_least("interval_seconds", self.interval_seconds, 0.1)
