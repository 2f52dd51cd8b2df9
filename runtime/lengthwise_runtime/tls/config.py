"""What an operator may set about TLS."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict

from lengthwise_runtime.config import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerNames:
    """Names in the certificates of those that may call, by what they are. Where a certificate has
    several of these names, it is all of that."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    routers: tuple[str, ...]  # names in the certificates of routers
    workers: tuple[str, ...]  # and in those of workers
    autoscalers: tuple[str, ...] = ()  # none: no certificate is an autoscaler's
    clients: tuple[str, ...] = ()  # none: every certificate that is nothing of the above


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Files of PEM text, read again when they change. With `authority` set, both sides must show a
    certificate it signed (mTLS)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    certificate: Path  # what this process shows, with those that vouch for it
    private_key: Path  # of the certificate
    authority: Path | None = None  # whose certificates callers and the called have to show
    server_name: str = ""
    """What the certificates of workers name; empty: the host they are reached at. Pods are reached
    at addresses that no certificate can know beforehand."""
    callers: CallerNames | None = None
    """Who may call what; unset: every certificate that `authority` signed may call everything."""

    def __post_init__(self) -> None:
        if self.callers is not None and self.authority is None:
            raise ValueError("callers: got names without an authority that vouches for them")
