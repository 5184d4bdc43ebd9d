"""The id of the mask token, for architectures whose config.json leaves it to the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from skipstone.text.published import check_size, read_settings
from skipstone.text.special import read_special
from skipstone.text.tokenizer import MOST_BYTES


def mask_id(directory: Path, text: str) -> int | None:
    """The id of a checkpoint's mask token; None if its files know of none.

    Args:
        directory: where they are.
        text: of the token, where no file names it ``mask_token``.

    Raises:
        CheckpointError: a file is broken.
    """
    special = read_special(directory, read_settings(directory / "tokenizer_config.json"))
    text = special.named.get("mask_token", text)
    declared = {about.content: token for token, about in special.declared.items()}
    return declared[text] if text in declared else _added(directory / "tokenizer.json", text)


def _added(path: Path, text: str) -> int | None:
    """The id of an added token of tokenizer.json; whoever reads all of it says what is broken."""
    if not check_size(path, MOST_BYTES):
        return None
    try:
        added = json.loads(path.read_bytes())["added_tokens"]
        return next((int(token["id"]) for token in added if token["content"] == text), None)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
