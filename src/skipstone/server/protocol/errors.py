"""Errors as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from skipstone.errors import (
    CheckpointError,
    ConfigError,
    NoRoomError,
    PromptError,
    SkipstoneError,
)
from skipstone.quoting import shown
from skipstone.server.protocol.strict import CONFLICT, UNKNOWN, UNSUPPORTED

INVALID, OURS = "invalid_request_error", "server_error"
TOO_LONG = "context_length_exceeded"


class ErrorDetail(BaseModel):
    """What is wrong, and where."""

    message: str
    type: str
    param: str | None = None
    """The field that it is about."""
    code: str | None = None


class ErrorBody(BaseModel):
    """What a client gets in place of an answer."""

    error: ErrorDetail


class AnswerError(SkipstoneError):
    """A request is refused with a status of its own."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Say what is wrong, with which field, and what the client may read of it."""
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code
        self.headers = dict(headers or {})


@contextmanager
def naming(prompt: str) -> Iterator[None]:
    """Say of an error of the engine which field of a request it is about.

    Args:
        prompt: the field that has the text or the ids.

    Raises:
        AnswerError: the prompt is refused, or a setting of the engine.
    """
    try:
        yield
    # A chat template that cannot take the messages is a fault of files.
    except (PromptError, CheckpointError) as error:
        raise AnswerError(400, str(error), param=prompt, code="invalid_value") from None
    except ConfigError as error:
        raise AnswerError(400, str(error), param="skipstone", code="invalid_value") from None


def body_of(error: Exception) -> tuple[int, ErrorBody]:
    """Status and body for an error.

    Errors that a request has caused are the client's (4xx); the others are ours. Of an error that
    nobody foresaw, no more is said than its kind.
    """
    message, param, code, kind = str(error), None, None, INVALID
    if isinstance(error, AnswerError):
        status, kind, param, code = error.status, error.kind, error.param, error.code
    elif isinstance(error, RequestValidationError):
        status, (message, param, code) = 400, _invalid(error.errors())
    elif isinstance(error, HTTPException):
        status, message = error.status_code, f"{error.detail}"
    elif isinstance(error, NoRoomError):
        # It will never fit, however long it waits.
        status, code = 400, "no_room"
    elif isinstance(error, ConfigError | PromptError | CheckpointError):
        # At this time, only a chat template that cannot take the messages is a fault of files.
        status = 400
    elif isinstance(error, CancelledError):
        status, kind, code = 503, OURS, "ended"
    elif isinstance(error, SkipstoneError):
        status, kind, code = 500, OURS, type(error).__name__
    else:
        status, kind, code = 500, OURS, "internal_error"
        message = f"internal error ({type(error).__name__}); the server's log has more"
    detail = ErrorDetail(message=message, type=kind, param=param, code=code)
    return status, ErrorBody(error=detail)


def event_of(error: Exception) -> bytes:
    """The event that ends a stream in place of its ``[DONE]``."""
    return f"data: {body_of(error)[1].model_dump_json()}\n\n".encode()


def no_address(method: str, path: str, error: HTTPException) -> AnswerError:
    """Nothing is answered there: what is."""
    allowed = (error.headers or {}).get("allow")
    known = f"it takes {allowed}" if allowed else "GET /openapi.json has all addresses"
    return AnswerError(
        error.status_code,
        f"there is no {method} {shown(path)} here; {known}. base_url of OpenAI's client ends with "
        f"/v1",
        code="no_address",
        headers=error.headers,
    )


def response_to(error: Exception) -> JSONResponse:
    """The answer to a request that ended with an error."""
    status, body = body_of(error)
    headers = getattr(error, "headers", None)
    return JSONResponse(body.model_dump(), status, headers)


def _invalid(errors: Sequence[Mapping[str, object]]) -> tuple[str, str | None, str | None]:
    """Message, field and code of what is wrong with a body."""
    # Where a field may have several forms, there is an error for each: first those of the form that
    # it has, then the one that went furthest.
    first = max(errors, key=lambda one: (not str(one["type"]).endswith("_type"), len(_path(one))))
    kind, said, context = str(first["type"]), str(first["msg"]), first.get("ctx")
    named = context if isinstance(context, Mapping) else {}
    param = ".".join([*_path(first), *([str(named["param"])] if "param" in named else [])]) or None
    if kind in (UNKNOWN, UNSUPPORTED, CONFLICT):
        return said, param, kind
    if kind == "json_invalid":
        return f"the body is no JSON: {named.get('error', said)}", None, "invalid_json"
    where = param or "the body"
    if kind == "missing":
        return f"{where} is missing", param, "missing_required_parameter"
    return f"{where} is {shown(first.get('input'))}: {said}", param, "invalid_value"


def _path(error: Mapping[str, object]) -> list[str]:
    """Fields and places of lists down to what an error is about.

    The first part says that it was in the body; those that name the form of a field tell nothing.
    """
    path = error["loc"]
    assert isinstance(path, Sequence)
    forms = ("str", "int", "float", "bool", "MaskPart")
    parts = [str(part) for part in path[1:]]
    return [part for part in parts if part.replace("_", "a").isalnum() and part not in forms]
