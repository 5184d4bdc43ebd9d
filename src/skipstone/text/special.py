"""Which special tokens a checkpoint names, from all the files that may name them.

The order of precedence is that of the published stack. ``tokenizer_config.json`` comes first. If
it describes its added tokens (``added_tokens_decoder``), it is all there is; if not, it is an older
one: ``special_tokens_map.json`` overrides its names, and ``added_tokens.json`` gives ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tokenizers import AddedToken

from skipstone.errors import CheckpointError
from skipstone.files import Json
from skipstone.quoting import shown
from skipstone.text.published import read_settings

_LISTS = ("extra_special_tokens", "additional_special_tokens")


@dataclass(frozen=True)
class SpecialTokens:
    """What the files beside ``tokenizer.json`` say of special tokens."""

    named: Mapping[str, str] = field(default_factory=dict)
    """Text by name, such as ``bos_token``: what a chat template may mention."""
    extra: tuple[str, ...] = ()
    """Special tokens without a name."""
    declared: Mapping[int, AddedToken] = field(default_factory=dict)
    """Added tokens by id."""


def read_special(directory: Path, settings: Json) -> SpecialTokens:
    """The special tokens of a checkpoint.

    Args:
        directory: where its files are.
        settings: its tokenizer_config.json; empty if it has none.

    Raises:
        CheckpointError: a file is broken.
    """
    described = settings.get("added_tokens_decoder")
    if described is not None:
        return SpecialTokens(
            _names(settings),
            _extra(settings),
            _declared(directory / "tokenizer_config.json", described),
        )
    older = read_settings(directory / "special_tokens_map.json")
    merged = settings | older
    names, extra = _names(merged), (*_extra(settings), *_extra(older))
    path = directory / "added_tokens.json"
    special = {*names.values(), *extra}
    declared = {
        _id(path, token): AddedToken(name, normalized=name not in special, special=name in special)
        for name, token in read_settings(path).items()
    }
    return SpecialTokens(names, tuple(dict.fromkeys(extra)), declared)


def _names(settings: Json) -> dict[str, str]:
    """Every ``..._token`` whose value is text, plain or described."""
    extra = settings.get("extra_special_tokens")
    own = extra if isinstance(extra, dict) else {}
    found = {key: _content(value) for key, value in settings.items() if key.endswith("_token")}
    found |= {str(key): _content(value) for key, value in own.items()}
    return {key: content for key, content in found.items() if content is not None}


def _extra(settings: Json) -> tuple[str, ...]:
    """Special tokens that are listed without a name."""
    for key in _LISTS:
        listed = settings.get(key)
        if isinstance(listed, list) and listed:
            return tuple(content for one in listed if (content := _content(one)))
    return ()


def _content(value: object) -> str | None:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _declared(path: Path, described: object) -> dict[int, AddedToken]:
    if not isinstance(described, dict):
        raise CheckpointError(
            f"{path}: added_tokens_decoder is a {type(described).__name__}, must be an object; "
            f"copy it from the published checkpoint"
        )
    found = dict[int, AddedToken]()
    for token, about in described.items():
        if not isinstance(about, dict) or not _content(about):
            raise CheckpointError(
                f"{path}: added token {shown(token)} has no text under 'content'; copy it "
                f"from the published checkpoint"
            )
        found[_id(path, token)] = _added_token(cast("Json", about))
    return found


def _added_token(about: Json) -> AddedToken:
    special = about.get("special") is True
    return AddedToken(
        _content(about) or "",
        single_word=about.get("single_word") is True,
        lstrip=about.get("lstrip") is True,
        rstrip=about.get("rstrip") is True,
        normalized=about.get("normalized", not special) is True,
        special=special,
    )


def _id(path: Path, token: object) -> int:
    if isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 10:
        return int(token)
    if isinstance(token, int) and not isinstance(token, bool) and token >= 0:
        return token
    raise CheckpointError(
        f"{path}: the id of an added token is {shown(token)}, must be a whole number; copy it "
        f"from the published checkpoint"
    )
