"""What the two gRPC transports share: targets, channel options, credentials, and statuses →
errors."""

import json
import os
import re
from collections.abc import Sequence
from typing import Any, Protocol, cast

import grpc

from lengthwise.settings import Timeout, Tls
from lengthwise_wire.errors import (
    ERROR_KEY,
    DeadlineExceeded,
    InvalidRequest,
    LengthwiseError,
    NoWorkerAvailable,
    from_status,
)
from lengthwise_wire.limits import MAX_MESSAGE_BYTES

DEFAULT_ENDPOINT = "localhost:50051"

API_KEY_VARIABLE = "LENGTHWISE_API_KEY"

MAX_API_KEY_CHARACTERS = 1024

_API_KEY = re.compile(rf"[!-~]{{1,{MAX_API_KEY_CHARACTERS}}}")

_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
"""A name that resolves to several routers spreads over them, and goes round one that is down."""


def parse_endpoints(endpoints: str | Sequence[str]) -> list[str]:
    """gRPC targets: host:port, or a name for gRPC's own resolver such as dns:///service:port.

    Errors: InvalidRequest.
    """
    if not isinstance(endpoints, str | Sequence):
        raise InvalidRequest(f"endpoints: got {endpoints!r}, expected host:port, or a list of them")
    targets = [endpoints] if isinstance(endpoints, str) else list(endpoints)
    if not targets:
        raise InvalidRequest("endpoints: got none, expected at least one host:port")
    for target in targets:
        if (
            not isinstance(target, str)
            or ":" not in target
            or target.startswith(("http://", "https://"))
        ):
            raise InvalidRequest(
                f"endpoints: got {target!r}, expected host:port or a gRPC target such as"
                " dns:///service:port"
            )
    return targets


def channel_options(target: str, connect_seconds: float) -> list[tuple[str, Any]]:
    return [
        ("grpc.service_config", _SERVICE_CONFIG),
        # A cut or frozen peer breaks its calls within five seconds, whatever TCP reports. Without
        # the ping's own timeout, which defaults to a minute, a frozen one did so after 61.7 s.
        ("grpc.keepalive_time_ms", 2_000),
        ("grpc.keepalive_timeout_ms", 3_000),
        ("grpc.http2.ping_timeout_ms", 3_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # A router that comes back is found again within a second. The «minimum» is also how long
        # one attempt to connect may take.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", round(connect_seconds * 1000)),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # The default is 30 s: routers that were all replaced within it would not be found.
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        # A connection is this client's own: closing the client closes it.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0 if _is_loopback(target) else 1),
    ]


def credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Errors: InvalidRequest naming a file that cannot be read."""
    try:
        authority, private_key, certificate = (
            path.read_bytes() if path else None
            for path in (tls.authority, tls.private_key, tls.certificate)
        )
    except OSError as error:
        raise InvalidRequest(f"tls: cannot read {error.filename}: {error.strerror}") from error
    return grpc.ssl_channel_credentials(authority, private_key, certificate)


def call_metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """What every call carries: the given key, else that of the environment's variable, if it has
    one. Errors: InvalidRequest, without the key."""
    source = "api_key"
    if api_key is None:
        source = API_KEY_VARIABLE
        api_key = os.environ.get(source)
        if not api_key:
            return ()
    if not isinstance(api_key, str) or not _API_KEY.fullmatch(api_key):
        raise InvalidRequest(
            f"{source}: expected 1 to {MAX_API_KEY_CHARACTERS} printable ASCII characters without"
            " blanks"
        )
    return (("authorization", f"Bearer {api_key}"),)


class _FailedCall(Protocol):
    """What sync and aio RpcErrors have in common, beyond their declared base class."""

    def code(self) -> grpc.StatusCode: ...

    def details(self) -> str | None: ...

    def trailing_metadata(self) -> Sequence[tuple[str, str | bytes]] | None: ...


def error_of(target: str, error: grpc.RpcError, patience: Timeout) -> LengthwiseError:
    """The error that the server raised, or what gRPC reports of the connection to it."""
    call = cast(_FailedCall, error)
    trailing = call.trailing_metadata() or ()
    metadata = {key: value for key, value in trailing if isinstance(value, str)}
    details = call.details() or call.code().name
    if ERROR_KEY in metadata:
        return from_status(call.code(), details, metadata)
    if call.code() is grpc.StatusCode.UNAVAILABLE:
        return NoWorkerAvailable(f"cannot reach {target}: {details}")
    if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return InvalidRequest(f"the request is too large: {details}")
    if call.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(
            f"{target} did not finish the request within {patience.total:.3g} s"
        )
    # Our servers name their errors. An unnamed end that this client did not ask for is a server or
    # a proxy that went away.
    if call.code() is grpc.StatusCode.CANCELLED or "RST_STREAM" in details:
        return NoWorkerAvailable(f"{target} cut the call: {details}")
    return from_status(call.code(), f"{target}: {details}", metadata)


def silent(target: str, seconds: float) -> NoWorkerAvailable:
    return NoWorkerAvailable(f"{target} gave no sign of life for {seconds:g} s")


def _is_loopback(target: str) -> bool:
    host = target.rpartition("/")[2].rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")
