"""The command that makes API keys. It talks to nobody: the file is the operator's."""

import hashlib
import json
import secrets
from typing import Annotated

import typer
from typer import Argument

from lengthwise_cli.errors import CommandError
from lengthwise_cli.terminal import say
from lengthwise_wire.limits import MAX_TENANT_CHARACTERS

KEY_BYTES = 32

app = typer.Typer(help="Make API keys.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Make API keys."""


@app.command()
def new(
    name: Annotated[str, Argument(help="Whose it is: the tenant that its calls count for.")],
) -> None:
    """Make a key: its entry for the routers' file of keys on standard output, and the key itself,
    which is shown this once, on standard error."""
    if not name.isprintable() or not 1 <= len(name) <= MAX_TENANT_CHARACTERS:
        raise CommandError(
            f"NAME: got {name[: MAX_TENANT_CHARACTERS + 1]!r}, expected 1 to"
            f" {MAX_TENANT_CHARACTERS} printable characters"
        )
    key = f"lw-{secrets.token_urlsafe(KEY_BYTES)}"
    print(f"- name: {json.dumps(name, ensure_ascii=False)}")
    print(f'  sha256: "{hashlib.sha256(key.encode()).hexdigest()}"', flush=True)
    say(f"The key of {name}, shown this once: {key}")
