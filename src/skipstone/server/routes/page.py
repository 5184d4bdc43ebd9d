"""``GET /``: a page to ask the model from, and to see its canvas being filled.

Its files lie in ``page/`` beside this package, as a browser takes them: nothing is built, and
nothing is loaded from elsewhere.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from skipstone.report.theme import style_sheet
from skipstone.server.access.keys import PAGE_FILES

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
_THEME, _INDEX, _READER = "theme.css", "index.html", "reader.html"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The page of a report is written into this one, and brings its own policy: its scripts by hash.
_READER_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_routes() -> APIRouter:
    """The page and its files; anybody may load them, they have nothing of the model in them."""
    routes = APIRouter(include_in_schema=False)
    known = _read()

    @routes.get("/")
    async def index() -> Response:
        """The page."""
        return _response(_INDEX, known[_INDEX])

    @routes.get(PAGE_FILES + "{name}")
    async def file(name: str) -> Response:
        """One of its files."""
        if name not in known:
            raise HTTPException(404)
        return _response(name, known[name])

    return routes


def _read() -> dict[str, bytes]:
    """All files by name."""
    folder = files("skipstone.server").joinpath("page")
    found = {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file()}
    return {**found, _THEME: style_sheet().encode()}


def _response(name: str, content: bytes) -> Response:
    headers = {
        "content-security-policy": _READER_POLICY if name == _READER else _POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        # It belongs to the server's version.
        "cache-control": "no-cache",
    }
    return Response(content, media_type=_TYPES[name.rpartition(".")[2]], headers=headers)
