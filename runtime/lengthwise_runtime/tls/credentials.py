"""Files of a TlsConfig → gRPC's credentials.

Certificates are renewed while processes run: servers look at the files with every new connection,
channels are given what the files say when they are opened.
"""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from lengthwise_runtime.config import ConfigError
from lengthwise_runtime.tls.config import TlsConfig

logger = logging.getLogger(__name__)


Versions = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pem:
    certificate: bytes
    private_key: bytes
    authority: bytes | None


def channel_credentials(tls: TlsConfig) -> grpc.ChannelCredentials:
    """Of the files as they are now. Errors: ConfigError."""
    pem = _read(tls)
    return grpc.ssl_channel_credentials(pem.authority, pem.private_key, pem.certificate)


def server_credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    """Of the files as they are at each connection. Errors: ConfigError for what they are now."""
    files = _WatchedFiles(tls)
    return grpc.dynamic_ssl_server_credentials(
        _configuration(_read(tls)),
        files.changed,  # type: ignore[arg-type]  # None is for «as it was»
        tls.authority is not None,
    )


def file_versions(tls: TlsConfig | None) -> Versions:
    """Differs once a file has changed. Kubernetes replaces the files of a Secret by others."""
    return tuple(map(file_version, _paths(tls))) if tls is not None else ()


class _WatchedFiles:
    """Runs on gRPC's threads, where nothing may be raised."""

    def __init__(self, tls: TlsConfig) -> None:
        self._tls = tls
        self._seen = file_versions(tls)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files say, where they have changed and can be used."""
        seen = file_versions(self._tls)
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            pem = _read(self._tls)
        except ConfigError as error:
            logger.error("the certificate stays as it was: %s", error)
            return None
        logger.info("certificate %s is read again", self._tls.certificate)
        return _configuration(pem)


def _configuration(pem: _Pem) -> grpc.ServerCertificateConfiguration:
    pair = pem.private_key, pem.certificate
    return grpc.ssl_server_certificate_configuration([pair], pem.authority)


def _paths(tls: TlsConfig) -> list[Path]:
    return [path for path in (tls.certificate, tls.private_key, tls.authority) if path is not None]


def file_version(path: Path) -> tuple[int, ...]:
    """Differs once the file has changed; empty where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _read(tls: TlsConfig) -> _Pem:
    """Errors: ConfigError naming what cannot be read, and what does not belong together."""
    try:
        pem = _Pem(
            certificate=tls.certificate.read_bytes(),
            private_key=tls.private_key.read_bytes(),
            authority=tls.authority.read_bytes() if tls.authority is not None else None,
        )
        _check(tls)
    except ssl.SSLError as error:
        paths = ", ".join(map(str, _paths(tls)))
        raise ConfigError(
            f"tls: {error.reason or error}: expected PEM text of a certificate and of its own key,"
            f" without a password, in {paths}"
        ) from error
    except OSError as error:
        raise ConfigError(f"tls: cannot read {error.filename}: {error.strerror}") from error
    return pem


def _check(tls: TlsConfig) -> None:
    """gRPC would say nothing, and refuse every connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.private_key, password=lambda: "")
    if tls.authority is not None:
        context.load_verify_locations(tls.authority)
