"""Tokens as a person reads them: as text, and with their ids on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from skipstone.errors import SkipstoneError

if TYPE_CHECKING:
    from skipstone.models.load import Model
    from skipstone.record.schema import Header
    from skipstone.text import Text

ids_option = click.option("--ids", is_flag=True, help="Show the ids of tokens beside their text.")

tokenizer_option = click.option(
    "--model", help="Whose tokenizer names the tokens, if the model is not where it was."
)


@dataclass(frozen=True)
class Tokens:
    """How tokens are shown; their ids alone where the tokenizer is not known."""

    text: Callable[[int], str] | None
    ids: bool

    def __call__(self, token: int) -> str:
        """One token, like ``'Newton'``, ``'Newton' (id 17)`` or ``id 17``."""
        shown = "" if self.text is None else self.text(token)
        if not shown:
            return f"id {token}"
        return f"{shown!r} (id {token})" if self.ids else repr(shown)


def tokens_of_model(model: Model, *, ids: bool) -> Tokens:
    """Tokens of a model that is loaded."""
    return Tokens(model.text.token, ids)


def text_of_trace(header: Header, model: str | None) -> Text | None:
    """The tokenizer of a recorded run, if it is on this machine; torch is not needed.

    Args:
        header: of the run. No folder is opened and no hub is asked because it says so.
        model: where the user says the model is; this name is looked up.

    Raises:
        SkipstoneError: ``model`` cannot be found or read.
    """
    from skipstone.models import locate
    from skipstone.text import Text

    special = (header.mask_id, header.eos_id)
    if not all(0 <= token < header.vocab_size for token in special):
        return None
    try:
        if model is None:
            locate.check_recorded(header.model)
        directory = locate.find(model or header.model, local_files_only=model is None)
        return Text.read(directory, *special, header.vocab_size)
    except SkipstoneError:
        if model is not None:
            raise
        return None


def tokens_of_trace(header: Header, text: Text | None, *, ids: bool) -> Tokens:
    """Tokens of a recorded run; an id that its model does not have is shown as such."""
    if text is None:
        return Tokens(None, ids)

    def known(token: int) -> str:
        return text.token(token) if 0 <= token < header.vocab_size else ""

    return Tokens(known, ids)


def prompt_text(header: Header, text: Text | None) -> str:
    """The prompt of a recorded run, ``|`` for special tokens; empty if its tokenizer is absent."""
    if text is None or not all(0 <= token < header.vocab_size for token in header.prompt_ids):
        return ""
    return " | ".join(text.passages(header.prompt_ids))


def answer_ids(header: Header, tokens: Sequence[int]) -> list[int]:
    """New tokens up to the first EOS."""
    ended = tokens.index(header.eos_id) if header.eos_id in tokens else len(tokens)
    return list(tokens[:ended])
