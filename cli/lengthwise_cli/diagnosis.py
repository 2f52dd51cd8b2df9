"""Why no router answers: what listens at the endpoint instead, in one sentence with its remedy."""

import socket
from collections.abc import Sequence

import grpc

from lengthwise_wire.errors import ERROR_KEY, Cancelled, DeadlineExceeded, LengthwiseError

PROBE_SECONDS = 2.0
MAX_PORT = 65_535

_REMEDY = (
    "start a deployment here with `lengthwise up`, or name a router with --endpoint or"
    " LENGTHWISE_ENDPOINT"
)
_SETTINGS = 4
"""Type of the HTTP/2 frame with which every gRPC server begins."""


def is_from_router(error: LengthwiseError) -> bool:
    """Whether a router of ours said so, or the client itself before it called any."""
    cause = error.__cause__
    if not isinstance(cause, grpc.RpcError) or isinstance(error, Cancelled | DeadlineExceeded):
        return True
    trailing = cause.trailing_metadata() if isinstance(cause, grpc.Call) else None
    return ERROR_KEY in dict(trailing or ())


def in_words(error: LengthwiseError, endpoints: Sequence[str]) -> str:
    """The error; but of one that no router has sent, what is wrong with the first endpoint, if it
    can be seen."""
    if is_from_router(error):
        return str(error)
    finding = find(endpoints[0], uses_grpc=error.status is grpc.StatusCode.UNIMPLEMENTED)
    if not finding:
        return str(error)
    others = f" (nor do {', '.join(endpoints[1:])})" if len(endpoints) > 1 else ""
    return f"no router answers at {endpoints[0]}{others}: {finding}"


def find(endpoint: str, *, uses_grpc: bool = False) -> str:
    """What listens there; empty where it cannot be told. `uses_grpc`: a call was answered."""
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal() or "/" in endpoint:
        return ""
    if int(port) > MAX_PORT:
        return f"there is no port {port}: the highest is {MAX_PORT}"
    try:
        return _find(host.strip("[]"), int(port), uses_grpc)
    except socket.gaierror:
        return f"there is no host {host}; {_REMEDY}"
    except ConnectionRefusedError:
        return f"nothing listens there; {_REMEDY}"
    except ConnectionResetError:
        return "it closes connections; does it expect TLS (--tls-authority)?"
    except TimeoutError:
        return f"no connection within {PROBE_SECONDS:g} s; is the host up, and no firewall between?"
    except OSError as error:
        return f"{error.strerror or error}; {_REMEDY}"


def _find(host: str, port: int, uses_grpc: bool) -> str:
    """Errors: OSError."""
    with socket.create_connection((host, port), timeout=PROBE_SECONDS) as connection:
        if uses_grpc:
            return "a gRPC server listens there, but no router of Lengthwise, or an older one"
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        try:
            answer = connection.recv(16)
        except TimeoutError:
            return "what listens there says nothing; is it a router of Lengthwise?"
    if answer.startswith(b"HTTP/"):
        return "an HTTP server listens there, no router of Lengthwise"
    if answer.startswith(b"\x15\x03"):
        return "it expects TLS; name its certificate authority with --tls-authority"
    if answer[3:4] == bytes([_SETTINGS]):
        return ""
    return "what listens there is no router of Lengthwise, or expects TLS (--tls-authority)"
