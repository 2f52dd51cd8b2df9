"""A deployment under mutual TLS, with a certificate for each kind of its parts, and two clients."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.keys import EVERYWHERE, make_authority, make_certificate

import lengthwise
from lengthwise_local import LocalCluster
from lengthwise_runtime.tls.config import CallerNames, TlsConfig

CALLERS = {
    "routers": ["router.test"],
    "workers": ["worker.test"],
    "autoscalers": ["autoscaler.test"],
}


def make_parts(folder: Path) -> Path:
    """Certificates of all parts, each named after it, and of a stranger's authority."""
    make_authority(folder)
    for name in ("router", "worker", "autoscaler", "alice", "bob"):
        make_certificate(folder, name, names=f"DNS:{name}.test,{EVERYWHERE}")
    make_authority(folder, "other")
    make_certificate(folder, "stranger", names=f"DNS:router.test,{EVERYWHERE}", authority="other")
    make_certificate(folder, "nameless", names="", subject="/O=nobody")
    return folder


def tls_of(keys: Path, part: str, callee: str = "worker") -> TlsConfig:
    """What a part shows to a callee of a kind."""
    return TlsConfig(
        certificate=keys / f"{part}.pem",
        private_key=keys / f"{part}.key",
        authority=keys / "ca.pem",
        server_name=f"{callee}.test",
        callers=CallerNames(**{key: tuple(names) for key, names in CALLERS.items()}),
    )


def client(cluster: LocalCluster, keys: Path, name: str) -> lengthwise.Client:
    tls = lengthwise.Tls(
        authority=keys / "ca.pem",
        certificate=keys / f"{name}.pem",
        private_key=keys / f"{name}.key",
    )
    retry = lengthwise.Retry(attempts=1)
    return lengthwise.Client(cluster.endpoint, tls=tls, retry=retry)


@contextmanager
def locked(model: Path, keys: Path, **router: object) -> Iterator[LocalCluster]:
    """A router, a prefill and a decode worker."""

    def config(part: str) -> dict[str, Any]:
        return {
            "tls": {
                "certificate": str(keys / f"{part}.pem"),
                "private_key": str(keys / f"{part}.key"),
                "authority": str(keys / "ca.pem"),
                "server_name": "worker.test",
                "callers": CALLERS,
            }
        }

    worker = config("worker")
    with LocalCluster(
        model=model,
        configs={"prefill": worker, "decode": worker, "router": {**config("router"), **router}},
    ) as cluster:
        yield cluster
