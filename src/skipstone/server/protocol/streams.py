"""What streams consist of and errors are sent as, in the OpenAPI description."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from skipstone.server.protocol.chat import ChatChunk
from skipstone.server.protocol.completions import Completion

CHUNKS: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatChunk,
    "/v1/completions": Completion,
}
"""Of each endpoint that streams, what the data of an event is."""

JSON = "application/json"
_REFERENCE = "#/components/schemas/{model}"


def describe_streams(description: dict[str, Any]) -> None:
    """Add what FastAPI does not see, as a stream has no response model.

    Args:
        description: of the application; it is changed.
    """
    _, found = models_json_schema(
        [(chunk, "serialization") for chunk in CHUNKS.values()], ref_template=_REFERENCE
    )
    components = description["components"]["schemas"]
    for name, schema in found["$defs"].items():
        components.setdefault(name, schema)
    for path, chunk in CHUNKS.items():
        answer = description["paths"][path]["post"]["responses"]["200"]
        answer["content"]["text/event-stream"] = {
            "schema": {"$ref": _REFERENCE.format(model=chunk.__name__)}
        }


def describe_errors(description: dict[str, Any]) -> None:
    """Say of errors that they are JSON: FastAPI has them be what a page or a file is.

    Args:
        description: of the application; it is changed.
    """
    for path in description["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if status in ("4XX", "5XX"):
                    answer["content"] = {JSON: next(iter(answer["content"].values()))}
