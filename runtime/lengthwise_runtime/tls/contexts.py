"""TLS for what is not gRPC: the same files, read again when they change, and the names of callers
as gRPC tells them."""

import ipaddress
import logging
import ssl
from collections.abc import Iterable, Iterator
from typing import Any

from lengthwise_runtime.config import ConfigError
from lengthwise_runtime.tls.config import TlsConfig
from lengthwise_runtime.tls.credentials import file_versions

logger = logging.getLogger(__name__)

_NAMED = ("DNS", "URI", "email")
"""Kinds of alternative names that gRPC tells, beside addresses."""


def server_context(tls: TlsConfig, section: str) -> ssl.SSLContext:
    """Of the files as they are at each connection. `section`: what errors call `tls`. Errors:
    ConfigError for what the files are now."""
    seen = file_versions(tls)
    latest = _loaded(tls, section)

    def look(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """At the beginning of each handshake."""
        nonlocal seen, latest
        now = file_versions(tls)
        if now != seen:
            seen = now
            try:
                latest = _loaded(tls, section)
            except ConfigError as error:
                logger.error("the certificate stays as it was: %s", error)
            else:
                logger.info("certificate %s is read again", tls.certificate)
        if latest is not context:
            connection.context = latest

    first = latest
    first.sni_callback = look
    return first


def _loaded(tls: TlsConfig, section: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.private_key, password=lambda: "")
        if tls.authority is not None:
            context.load_verify_locations(tls.authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"cannot use the files of {section}: {error}") from error
    return context


class PeerCertificate:
    """Stands for a call's context in `tls.callers`: what is known of a connection's other end."""

    def __init__(self, connection: ssl.SSLObject | None) -> None:
        """None: a connection without TLS."""
        found: dict[str, Any] = dict((connection and connection.getpeercert()) or {})
        subject = [pair for relative in found.get("subject", ()) for pair in relative]
        self._found = {
            "x509_pem_cert": [b""] if found else [],
            "x509_common_name": [value.encode() for key, value in subject if key == "commonName"][
                :1
            ],
            "x509_subject_alternative_name": list(_names(found.get("subjectAltName", ()))),
        }

    def auth_context(self) -> dict[str, list[bytes]]:
        """As that of gRPC."""
        return {key: values for key, values in self._found.items() if values}


def _names(alternative: Iterable[tuple[str, str]]) -> Iterator[bytes]:
    for kind, value in alternative:
        if kind == "IP Address":
            yield str(ipaddress.ip_address(value.strip())).encode()
        elif kind in _NAMED:
            yield value.encode()
