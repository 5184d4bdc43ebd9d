"""Requests are read strictly: what is not known or not supported is refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, LiteralString

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from skipstone.errors import nearest
from skipstone.quoting import shown

UNKNOWN: Final = "unknown_parameter"
UNSUPPORTED: Final = "unsupported_parameter"
CONFLICT: Final = "conflict"
"""Types of validation errors of our own, and codes of the answers to them."""


Refused = Mapping[str, tuple[object, ...]]
"""Fields of OpenAI's that nothing here stands behind, each with the values that ask for nothing."""


class Strict(BaseModel):
    """A part of a request in which every field is known.

    What ``refused`` names may be sent with a value that asks for nothing. Lists are declared with
    ``fail_fast``: a client is told one error, and a list may have one for each of millions.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    refused: ClassVar[Refused] = {}

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        """What is left once fields that ask for nothing are gone.

        Raises:
            PydanticCustomError: a field is unknown, or asks for what is not supported.
        """
        if not isinstance(given, dict):
            return given
        for name, value in given.items():
            if name in cls.model_fields:
                continue
            if name not in cls.refused:
                meant = nearest(str(name), [*cls.model_fields, *cls.refused])
                raise refusal(UNKNOWN, name, f"{shown(name)} is unknown; {meant}")
            if not any(type(value) is type(one) and value == one for one in cls.refused[name]):
                raise refusal(
                    UNSUPPORTED, name, f"{name} is {shown(value)}: not supported; leave it out"
                )
        return {name: value for name, value in given.items() if name in cls.model_fields}


def refusal(kind: LiteralString, name: object, message: str) -> PydanticCustomError:
    """The error of a field: one of the kinds above, its name, and all that is said of it."""
    # The template is a literal type; what is said goes in by its context.
    return PydanticCustomError(kind, "{said}", {"said": message, "param": str(name)})
