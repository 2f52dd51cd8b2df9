"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

from typer import Option

from lengthwise.client import Client
from lengthwise.types import Tls

Endpoints = Annotated[
    list[str], Option("--endpoint", "-e", help="A router, host:port; repeat to name several.")
]
Authority = Annotated[
    Path | None,
    Option(
        help="PEM file of the certificate authority (CA) of the routers' certificates: use TLS."
    ),
]
Certificate = Annotated[Path | None, Option(help="PEM file that this client shows.")]
PrivateKey = Annotated[Path | None, Option(help="PEM file of its key.")]
MaxTokens = Annotated[int | None, Option(help="At most so many tokens.")]
MinTokens = Annotated[int | None, Option(help="At least so many tokens.")]
Temperature = Annotated[float | None, Option(help="0 is greedy; not given: the model's default.")]
TopK = Annotated[int | None, Option(help="Keep the k likeliest tokens; 0 keeps all.")]
TopP = Annotated[float | None, Option(help="Keep the likeliest tokens up to this probability.")]
Seed = Annotated[int | None, Option(help="Equal seeds give equal texts.")]
Stop = Annotated[list[str] | None, Option(help="End before this text; repeat to name several.")]
RequestId = Annotated[
    str | None, Option(help="Name the request, to have it explained even if it fails.")
]
Seconds = Annotated[float | None, Option("--timeout", help="Give up after so many seconds.")]
AsJson = Annotated[bool, Option("--json", help="Print one JSON value.")]
Stats = Annotated[bool, Option("--stats", help="Say on standard error where the time went.")]
Priority = Annotated[int | None, Option(help="Served before lower ones; -100 to 100.")]
Tenant = Annotated[str | None, Option(help="Whom the request counts for.")]
CacheSalt = Annotated[
    str | None,
    Option(
        envvar="LENGTHWISE_CACHE_SALT",
        help="A secret: only requests with the same one share what is cached. The environment's"
        " variable hides it from those who list processes.",
    ),
]


def open_client(
    endpoints: list[str], authority: Path | None, certificate: Path | None, key: Path | None
) -> Client:
    """Errors: InvalidRequest."""
    tls = None
    if authority or certificate or key:
        tls = Tls(authority=authority, certificate=certificate, private_key=key)
    return Client(endpoints, tls=tls)
