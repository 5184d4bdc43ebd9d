"""Read the small files of a model directory, or say what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from skipstone import strict_json
from skipstone.errors import CheckpointError
from skipstone.quoting import one_line

Json = dict[str, object]


def read_json(path: Path) -> Json:
    """Read one JSON object, or say what is wrong with the file."""
    try:
        text = path.read_text(encoding="utf-8")
        value = strict_json.parse(text)
        strict_json.check_characters(text, value)
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
