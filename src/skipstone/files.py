"""Read the small files of a model directory, or say what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from skipstone.errors import CheckpointError

Json = dict[str, object]


def one_line(error: BaseException) -> str:
    """What another library's error says, on one line, for the parentheses of our own."""
    return " ".join(str(error).split()) or type(error).__name__


def _object(pairs: list[tuple[str, object]]) -> Json:
    """An object whose keys are not given twice with different values."""
    values = dict(pairs)
    for key, value in pairs:
        if values[key] is not value and values[key] != value:
            raise ValueError(f"{key!r} is given twice, as {value!r} and as {values[key]!r}"[:200])
    return values


def read_json(path: Path) -> Json:
    """Read one JSON object, or say what is wrong with the file."""
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, object_pairs_hook=_object)
        if "\\ud" in text.lower():  # half a character is no text that a tokenizer takes
            json.dumps(value, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist; a model directory holds config.json, tokenizer.json and "
            f"*.safetensors"
        ) from None
    # ValueError is also text that is not UTF-8 and a number too long to convert.
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({one_line(error)}); download it again"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); check the file and its permissions"
        ) from None
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path} holds a {type(value).__name__}, must be a JSON object; download it again"
        )
    return cast(Json, value)
