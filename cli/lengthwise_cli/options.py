"""Options that several commands have."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from typer import Option

from lengthwise.client import Client
from lengthwise.settings import Retry, Timeout, Tls
from lengthwise_cli.diagnosis import in_words, is_from_router
from lengthwise_cli.errors import CommandError
from lengthwise_wire.errors import LengthwiseError

ENDPOINT_VARIABLE = "LENGTHWISE_ENDPOINT"

Endpoints = Annotated[
    list[str],
    Option(
        "--endpoint",
        "-e",
        metavar="HOST:PORT",
        envvar=ENDPOINT_VARIABLE,
        help="A router; repeat to name several (in the variable: with blanks between).",
    ),
]
Authority = Annotated[
    Path | None,
    Option(
        help="PEM file of the certificate authority (CA) of the routers' certificates: use TLS."
    ),
]
Certificate = Annotated[Path | None, Option(help="PEM file that this client shows.")]
PrivateKey = Annotated[Path | None, Option(help="PEM file of its key.")]
ModelName = Annotated[
    str | None, Option("--model", help="Which one; needed where several are served.")
]
Adapters = Annotated[
    list[str] | None,
    Option(
        metavar="NAME=FOLDER",
        help="A LoRA adapter, in PEFT's format: a folder or a hub id; served as MODEL:NAME; repeat"
        " for several.",
    ),
]
MaxInFlight = Annotated[int, Option(min=1, help="More wait for their turn.")]
RequestSeconds = Annotated[float, Option(help="Seconds after which a request has failed.")]
RequestRows = Annotated[Path | None, Option(help="Write a row per request here.")]
Picture = Annotated[Path | None, Option(help="Draw it here: .svg, .png or .pdf.")]
MaxTokens = Annotated[int | None, Option(help="At most so many tokens.")]
MinTokens = Annotated[int | None, Option(help="At least so many tokens.")]
Temperature = Annotated[float | None, Option(help="0 is greedy; not given: the model's default.")]
TopK = Annotated[int | None, Option(help="Keep the k likeliest tokens; 0 keeps all.")]
TopP = Annotated[float | None, Option(help="Keep the likeliest tokens up to this probability.")]
Seed = Annotated[int | None, Option(help="Equal seeds give equal texts.")]
Stop = Annotated[
    list[str] | None,
    Option(metavar="TEXT", help="End before this text; repeat to name several."),
]


def read_schema(path: str) -> str:
    """Errors: CommandError."""
    try:
        return Path(path).read_text("utf-8")
    except OSError as error:
        raise CommandError(f"--json-schema: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"--json-schema: {path} is not UTF-8") from error


JsonSchema = Annotated[
    str | None,
    Option(metavar="FILE", parser=read_schema, help="The text is JSON that this schema accepts."),
]
Regex = Annotated[str | None, Option(help="The whole text matches this expression.")]
Choice = Annotated[
    list[str] | None,
    Option(metavar="TEXT", help="The text is this; repeat to name what else it may be."),
]
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

CONNECT_SECONDS = 2.0
TRIES = Retry(attempts=3)
"""Rounds through the endpoints for a request that has received nothing: a person waits for an
answer or for what is wrong, 0.3 s where nothing listens and 6 s where nothing is said."""


def make_tls(authority: Path | None, certificate: Path | None, key: Path | None) -> Tls | None:
    """None where no file is named. Errors: InvalidRequest."""
    if not (authority or certificate or key):
        return None
    return Tls(authority=authority, certificate=certificate, private_key=key)


def make_client(
    endpoints: list[str],
    authority: Path | None,
    certificate: Path | None,
    key: Path | None,
    model: str | None = None,
) -> Client:
    """Errors: InvalidRequest."""
    tls = make_tls(authority, certificate, key)
    timeout = Timeout(connect=CONNECT_SECONDS)
    return Client(endpoints, tls=tls, timeout=timeout, retry=TRIES, model=model)


@contextmanager
def open_client(
    endpoints: list[str],
    authority: Path | None,
    certificate: Path | None,
    key: Path | None,
    model: str | None = None,
) -> Iterator[Client]:
    """Errors: InvalidRequest, CommandError."""
    with make_client(endpoints, authority, certificate, key, model) as client, named(endpoints):
        yield client


@contextmanager
def named(endpoints: list[str]) -> Iterator[None]:
    """Errors: CommandError in the place of what gRPC says of a router that cannot be reached, or of
    what is no router."""
    try:
        yield
    except LengthwiseError as error:
        if is_from_router(error):
            raise
        raise CommandError(in_words(error, endpoints)) from error


def parse_bytes(text: str) -> int:
    """A Kubernetes quantity: bytes, or k, M, G, T (of 1000) or Ki, Mi, Gi, Ti (of 1024); with B
    after it or not. Errors: CommandError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *(?:([kmgt])(i?))?b?", text.strip().lower())
    if match is None or not float(match[1]):
        raise CommandError(
            f"--kv-memory: got {text!r}, expected bytes above 0, such as 512Mi or 4G"
        )
    power = "kmgt".index(match[2]) + 1 if match[2] else 0
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
