"""Read ``tokenizer.json``, and what other files add to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

from tokenizers import Tokenizer

from skipstone.errors import CheckpointError
from skipstone.files import Json
from skipstone.quoting import one_line, shown
from skipstone.text.published import check_size
from skipstone.text.special import SpecialTokens

MOST_BYTES = 128 << 20
"""Of tokenizer.json. The largest published ones have a third of it."""
# How many characters a normaliser may make of one; published ones make two or three.
_MOST_GROWTH = 1000


def read_tokenizer(directory: Path, special: SpecialTokens, vocab_size: int) -> Tokenizer:
    """The tokenizer of a checkpoint, padding and truncation switched off.

    Raises:
        CheckpointError: the file is missing, broken or too large, or has ids that the model lacks.
    """
    path = directory / "tokenizer.json"
    if not check_size(path, MOST_BYTES):
        raise CheckpointError(f"{path} does not exist; copy it from the published checkpoint")
    try:
        content = path.read_bytes()
        _check_growth(path, json.loads(content))
        tokenizer = Tokenizer.from_buffer(content)
    except CheckpointError:
        raise
    # The tokenizers package raises bare Exception for a file that it cannot parse.
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a tokenizer ({one_line(error)}); copy it from the published checkpoint"
        ) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    _add(tokenizer, special, vocab_size, directory)
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= vocab_size:
        raise CheckpointError(
            f"{path} has id {largest}, beyond the {vocab_size} ids of config.json; copy both "
            f"from the same published checkpoint"
        )
    return tokenizer


def mark_special(tokenizer: Tokenizer, names: Iterable[str]) -> None:
    """Only what is marked as special can be kept as text, and published files forget the mark."""
    known = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    for name in names:
        token = known.get(name)
        if token is not None and token.special:
            continue
        if token is not None:
            token.special = True
        tokenizer.add_special_tokens([token or name])


def _add(tokenizer: Tokenizer, special: SpecialTokens, vocab_size: int, directory: Path) -> None:
    """Tokens that only other files have: at the ids they are given, or at the next free ones."""
    for token, about in sorted(special.declared.items()):
        found = tokenizer.token_to_id(about.content)
        if found is None:
            tokenizer.add_tokens([about])
            found = tokenizer.token_to_id(about.content)
        if found != token:
            raise CheckpointError(
                f"{directory} gives {shown(about.content)} the id {token}, but in tokenizer.json "
                f"it has {found}; copy both files from the same published checkpoint"
            )
    names = [*special.named.values(), *special.extra]
    names += [about.content for about in special.declared.values() if about.special]
    size = tokenizer.get_vocab_size()
    for name in dict.fromkeys(filter(None, names)):
        known = tokenizer.token_to_id(name) is not None
        # A pad token that nobody uses may be named and have no room in the model.
        if known or size < vocab_size:
            mark_special(tokenizer, [name])
            size += not known


def _check_growth(path: Path, content: object) -> None:
    """Refuse a normaliser that makes megabytes of a line."""
    if not isinstance(content, dict):
        return
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        growth = 1
        for step in _steps(content.get(part)):
            texts = [step.get("content"), step.get("prepend"), step.get("replacement")]
            growth *= max([len(text) for text in texts if isinstance(text, str)] or [1]) or 1
        if growth > _MOST_GROWTH:
            raise CheckpointError(
                f"{path}: its {part} may make {growth} characters of one, more than "
                f"{_MOST_GROWTH}; copy it from the published checkpoint"
            )


def _steps(part: object) -> Iterator[Json]:
    """A step, and the steps that it consists of."""
    waiting = [part]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield cast("Json", one)
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
