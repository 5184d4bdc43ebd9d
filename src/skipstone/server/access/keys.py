"""Who may ask: whoever knows one of the keys."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from skipstone.errors import ConfigError
from skipstone.quoting import shown
from skipstone.server.access.account import refuse
from skipstone.server.protocol.errors import AnswerError

PAGE_FILES = "/page/"
"""Where the files of the page lie, in which a key can be entered."""
OPEN = frozenset({"/", "/health"})
"""Paths that anybody may ask for, beside these files."""


def read_keys(path: Path | None, environment: str) -> tuple[str, ...]:
    """The keys of a file, one a line (what follows ``#`` is left out), and of a variable.

    Args:
        path: of the file; None: there is none.
        environment: the variable: keys with commas between them.

    Raises:
        ConfigError: the file cannot be read or has no key, or a key could not be sent.
    """
    keys = [key.strip() for key in environment.split(",") if key.strip()]
    if path is not None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise ConfigError(
                f"--api-keys-file {shown(str(path))} cannot be read ({why}); give a file with one "
                f"key a line"
            ) from None
        found = [line.partition("#")[0].strip() for line in lines]
        if not any(found):
            raise ConfigError(
                f"--api-keys-file {shown(str(path))} has no key, so that nobody could ask; write "
                f"one a line"
            )
        keys += filter(None, found)
    for number, key in enumerate(keys, start=1):
        # The key itself is not said: an error ends up in logs.
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ConfigError(
                f"API key {number} cannot be sent in a header; write it in ASCII, without blanks"
            )
    return tuple(dict.fromkeys(keys))


class ApiKeys:
    """Lets through whoever knows a key, and whoever asks for what is open."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        """There is at least one key."""
        self._app = app
        self._known = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] == "http" and not is_open(scope["path"]):
            given = Headers(scope=scope).get("authorization", "")
            if not self._knows(given):
                said = "an API key is needed: Authorization: Bearer KEY"
                error = AnswerError(
                    401,
                    said if not given else f"this API key is not known; {said}",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
                await refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _knows(self, given: str) -> bool:
        scheme, _, key = given.partition(" ")
        digest = _digest(key.strip().encode("latin-1"))
        # All are compared, and digests of one length: how long it takes tells nothing.
        same = [hmac.compare_digest(digest, known) for known in self._known]
        return any(same) and scheme.lower() == "bearer"


def is_open(path: str) -> bool:
    """Whether anybody may ask for a path."""
    return path in OPEN or path.startswith(PAGE_FILES)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
