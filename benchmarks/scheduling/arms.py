"""The deployments that the scheduling benchmark compares, and how one of each is started.

Arms differ in nothing but the configuration keys named here, and all clusters of a repeat
run side by side, so that arms can take turns within seconds; those not playing use 2 % of a core.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from random_llama import random_llama

from lengthwise_local import LocalCluster

CONTEXT_LENGTH: Final = 4096
VOCAB_SIZE: Final = 256
"""Of what users say: the bytes among the checkpoint's tokens."""

FCFS: Final = {"policy": {"discipline": "fcfs"}}
SHORT_FIRST: Final = {"policy": {"discipline": "short_first"}}
LEAST_LOADED: Final = {"strategy": "least_loaded", "local_prefill": False}
NO_LOCAL_PREFILL: Final = {"local_prefill": False}
NO_REUSE: Final = {"prefix_caching": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A deployment by what it changes of the defaults."""

    name: str
    prefill: Mapping[str, object] = field(default_factory=dict)
    decode: Mapping[str, object] = field(default_factory=dict)
    router: Mapping[str, object] = field(default_factory=dict)


BASELINE: Final = Arm(name="fcfs", prefill=FCFS, router=LEAST_LOADED)
LENGTH_AWARE: Final = Arm(name="length_aware")
ARMS: Final = (
    BASELINE,
    Arm(name="short_first", prefill=SHORT_FIRST, router=LEAST_LOADED),
    Arm(name="length_aware_no_local", router=NO_LOCAL_PREFILL),
    LENGTH_AWARE,
    Arm(
        name="fcfs_no_reuse",
        prefill={**FCFS, **NO_REUSE},
        decode=NO_REUSE,
        router=LEAST_LOADED,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What every arm has alike."""

    hidden_size: int
    num_layers: int
    num_prefill: int
    threads: int = 1  # of torch, per worker

    def describe(self) -> dict[str, object]:
        """Columns of a row."""
        return {
            "model": f"llama {self.hidden_size}x{self.num_layers}",
            "context": CONTEXT_LENGTH,
            "prefill_workers": self.num_prefill,
            "decode_workers": 1,
            "threads_per_worker": self.threads,
        }

    def write_model(self, folder: Path) -> Path:
        """A Llama with random weights and heads of 64, 6 query heads or so to a KV head."""
        return random_llama(
            folder,
            hidden=self.hidden_size,
            layers=self.num_layers,
            vocab_size=320,
            max_position_embeddings=CONTEXT_LENGTH,
        )

    @contextmanager
    def start(self, model: Path, arms: Mapping[str, Arm]) -> Iterator[dict[str, str]]:
        """One cluster for each arm; yields their endpoints under the same names."""
        clusters = {name: self._cluster(model, arm) for name, arm in arms.items()}
        with ExitStack() as stack:
            for cluster in clusters.values():
                cluster.launch()
                stack.push(cluster)  # stops it
            for cluster in clusters.values():
                cluster.wait_ready()
            yield {name: cluster.endpoint for name, cluster in clusters.items()}

    def _cluster(self, model: Path, arm: Arm) -> LocalCluster:
        worker = {"threads": self.threads}
        return LocalCluster(
            model=model,
            prefill=self.num_prefill,
            decode=1,
            device="cpu",
            configs={
                "prefill": {**worker, **arm.prefill},
                "decode": {**worker, **arm.decode},
                "router": arm.router,
            },
        )
