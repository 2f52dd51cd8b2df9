"""The page's files: few, small, read once, and nothing from elsewhere."""

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

STATIC: Final = Path(__file__).parent / "static"

MEDIA_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # a router of another version has another page
}
"""A text that got into the page as code would still not be run, nor reach another site."""


def page_routes() -> list[Route]:
    """`/` and what it needs. For every caller: it holds nothing, and its calls are checked."""
    return [
        _route("/page/" + path.name if path.suffix != ".html" else "/", path)
        for path in sorted(STATIC.iterdir())
    ]


def _route(where: str, path: Path) -> Route:
    content, media_type = path.read_bytes(), MEDIA_TYPES[path.suffix]

    async def file(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return Route(where, file, methods=["GET"])
