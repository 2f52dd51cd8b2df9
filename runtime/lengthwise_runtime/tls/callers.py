"""Who may call whom. A certificate is a router's, a worker's, an autoscaler's or a client's by its
names; each method has callers of its own."""

from collections.abc import Callable
from typing import Any, Literal

from lengthwise_runtime.tls.config import CallerNames
from lengthwise_wire.errors import PermissionDenied, Unauthenticated

Check = Callable[[Any], object]
"""What a method does first, of its context. Errors: PermissionDenied, Unauthenticated."""

CallerKind = Literal["client", "router", "worker", "autoscaler"]

PERMITTED: dict[str, tuple[CallerKind, ...]] = {
    # A router may, for it sees what clients send in any case.
    "lengthwise.v1.Inference": ("client", "router"),
    "lengthwise.v1.PrefillWorker": ("router",),
    "lengthwise.v1.DecodeWorker": ("router",),
    "lengthwise.v1.DecodeWorker/Transfer": ("worker",),
    "lengthwise.v1.Worker/Watch": ("router", "autoscaler"),
    "lengthwise.v1.Worker/SetRole": ("autoscaler",),
}
"""By service, and by method where that is more exact. Health and reflection are for every caller
that the port's authority vouches for."""


MAX_SHOWN = 200
"""Characters of names in a message."""


class CallerCheck:
    """What the names of a configuration permit."""

    def __init__(self, names: CallerNames | None) -> None:
        """None: every caller may call everything."""
        self._is_open = names is None
        names = names or CallerNames(routers=(), workers=())
        self._kinds: dict[CallerKind, frozenset[str]] = {
            "router": frozenset(names.routers),
            "worker": frozenset(names.workers),
            "autoscaler": frozenset(names.autoscalers),
        }
        self._clients = frozenset(names.clients)

    def of(self, service: str, method: str) -> Check:
        if self._is_open or service.startswith("grpc."):
            return permit
        permitted = PERMITTED.get(f"{service}/{method}") or PERMITTED[service]

        def check(context: Any) -> None:
            names = certificate_names(context)
            kinds = self.kinds(names)
            if kinds.isdisjoint(permitted):
                raise PermissionDenied(
                    f"{service}/{method}: got a certificate of {' and '.join(sorted(kinds))}"
                    f" ({', '.join(names)[:MAX_SHOWN]}), expected one of"
                    f" {' or '.join(permitted)}; see tls.callers in the configuration of the callee"
                )

        return check

    def kinds(self, names: tuple[str, ...]) -> frozenset[str]:
        """What a caller with these names is; a «stranger» where it is nothing else."""
        found = {kind for kind, known in self._kinds.items() if not known.isdisjoint(names)}
        is_client = not self._clients.isdisjoint(names) if self._clients else not found
        if is_client:
            found.add("client")
        return frozenset(found) or frozenset({"stranger"})


def permit(_context: Any) -> None:
    """Of methods that every caller may call."""


def certificate_names(context: Any) -> tuple[str, ...]:
    """Common name and alternative names of the caller's certificate, which was verified; empty
    where none was asked for. Errors: Unauthenticated for a certificate without any."""
    found = context.auth_context()
    keys = ("x509_common_name", "x509_subject_alternative_name")
    names = {name for key in keys for name in found.get(key, ()) if name}
    if not names and "x509_pem_cert" in found:
        raise Unauthenticated(
            "got a certificate without a name, expected a common name or an alternative name"
        )
    return tuple(sorted(name.decode(errors="replace") for name in names))
