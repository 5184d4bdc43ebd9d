"""The body of a request is read once, strictly: readers of JSON differ in what they let pass."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NoReturn, cast

from fastapi import Request, Response
from fastapi.routing import APIRoute

from skipstone import strict_json
from skipstone.errors import ConfigError, nearest
from skipstone.quoting import one_line, shown
from skipstone.server.protocol.errors import AnswerError
from skipstone.server.protocol.strict import UNKNOWN

MOST_DEPTH = 64
"""Lists and objects within each other; a JSON schema of a format is the deepest that is sent."""
MOST_MEMBERS = 1024
"""Of an object; OpenAI's ``logit_bias`` is the largest that is sent, with some hundreds."""


class StrictRoute(APIRoute):
    """A route whose body is JSON that has one meaning."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Read the body before anything is made of it."""
        answer = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            _check_query(request, [one.alias for one in self.dependant.query_params])
            if request.method == "POST":
                request = _StrictRequest(request.scope, request.receive)
                check_type(request.headers)
                await request.json()
            return await answer(request)

        return strictly


class _StrictRequest(Request):
    async def json(self) -> object:
        """The value of the body.

        Raises:
            AnswerError: it is none, or could be read in two ways.
        """
        if not hasattr(self, "_parsed"):
            self._parsed = parsed(await self.body())
        return self._parsed


def _check_query(request: Request, known: Sequence[str]) -> None:
    """Refuse parameters of an address that mean nothing there.

    Raises:
        AnswerError: there is one.
    """
    for name in request.query_params:
        if name not in known:
            meant = nearest(name, known) if known else "there are none"
            raise AnswerError(
                400, f"parameter {shown(name)} is unknown; {meant}", param=name, code=UNKNOWN
            )


def check_type(headers: Mapping[str, str]) -> None:
    """Refuse a body that is not said to be JSON: pages of other origins may send such ones.

    Raises:
        AnswerError: it is said to be something else or to be packed, or nothing is said.
    """
    packed = headers.get("content-encoding", "identity").strip().lower()
    if packed != "identity":
        raise AnswerError(
            415,
            f"Content-Encoding is {packed!r}; send the body as it is",
            code="unsupported_media_type",
        )
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise AnswerError(
            415,
            f"Content-Type is {kind or 'missing'!r}; send JSON as application/json",
            code="unsupported_media_type",
        )


def parsed(body: bytes) -> object:
    """The value of a JSON text.

    Raises:
        AnswerError: it is no JSON in UTF-8, has a key twice, half a character, a number that is
            none, too many lists in lists or too many members.
    """
    try:
        text = body.decode()
        value = strict_json.parse(text, _no_number)
        _check_shape(value)
        strict_json.check_characters(text, value)
    except UnicodeDecodeError as error:
        raise _refused(f"byte {error.start} is not UTF-8", "invalid_json") from None
    except UnicodeEncodeError:
        raise _refused("half a character (a lone surrogate) is in it", "invalid_json") from None
    except RecursionError:
        raise _too_deep() from None
    except ConfigError as error:
        raise _refused(str(error), "invalid_json") from None
    except strict_json.DuplicateKeyError as error:
        raise _refused(one_line(error), "duplicate_key") from None
    except ValueError as error:
        raise _refused(one_line(error), "invalid_json") from None
    return value


def _no_number(name: str) -> NoReturn:
    raise ConfigError(f"{name} is no number of JSON")


def _check_shape(value: object) -> None:
    level, depth = _members(value), 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise _too_deep()
        level = [member for one in level for member in _members(one)]


def _members(value: object) -> list[object]:
    """What lies directly in a value."""
    if isinstance(value, dict):
        if len(value) > MOST_MEMBERS:
            said = f"an object has {len(value)} members, more than {MOST_MEMBERS}"
            raise _refused(said, "invalid_json")
        return list(cast("dict[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else []


def _too_deep() -> AnswerError:
    return _refused(f"lists and objects lie more than {MOST_DEPTH} deep in it", "invalid_json")


def _refused(why: str, code: str) -> AnswerError:
    return AnswerError(400, f"the body cannot be read as JSON: {why}", code=code)
