"""Channels to other Lengthwise processes: TLS where configured, keepalive always.

Keepalive turns a cut or frozen peer into a broken stream within five seconds, whatever TCP thinks;
the workers' own heartbeats are faster still.
"""

import grpc

from lengthwise_runtime.tls.config import TlsConfig
from lengthwise_runtime.tls.credentials import channel_credentials
from lengthwise_wire.limits import MAX_MESSAGE_BYTES

KEEPALIVE_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 3_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    # The time-out that counts in gRPC 1.85: without it a call to a stopped process hung for 62 s,
    # with 3 s it broke after 4.2 s.
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

MESSAGE_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)

_CHANNEL_OPTIONS = (
    *KEEPALIVE_OPTIONS,
    *MESSAGE_OPTIONS,
    ("grpc.enable_http_proxy", 0),
    # A worker that comes back under the same address is found again quickly.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also how long one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Channels to one address must not share a connection: one link's stall is its own.
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(address: str, tls: TlsConfig | None) -> grpc.aio.Channel:
    """Opens a channel to host:port; connecting happens on first use. Errors: ConfigError for files
    of TLS that cannot be used."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
    name = (("grpc.ssl_target_name_override", tls.server_name),) if tls.server_name else ()
    options = (*_CHANNEL_OPTIONS, *name)
    return grpc.aio.secure_channel(address, channel_credentials(tls), options=options)
