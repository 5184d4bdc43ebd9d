"""What a caller may give as a prompt, made ids or turned away.

A prompt is text, a conversation, or token ids in whatever holds whole numbers: a list, a NumPy
array, a tensor. Where the meaning is in doubt, it is refused and the remedy named.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import SupportsIndex, TypeAlias

import numpy as np
import torch
from torch import Tensor

from skipstone.canvas import MOST_STOP_IDS
from skipstone.errors import ConfigError, PromptError
from skipstone.quoting import shown
from skipstone.text import Conversation, Text

Prompt: TypeAlias = "str | Conversation | Sequence[int] | Tensor | np.ndarray"
"""Text, messages with ``role`` and ``content``, or ids [L] or [1, L]."""
Prompts: TypeAlias = "Sequence[Prompt] | Tensor | np.ndarray"
"""Several prompts, or ids [B, L]."""

_NO_BATCH = (str, bytes, bytearray, Mapping, set, frozenset)


def encode(prompt: object, text: Text, where: str, most: int) -> list[int]:
    """Ids of one prompt.

    Args:
        prompt: what a caller gave.
        text: of the model.
        where: names the prompt in errors.
        most: ids that are read at all; one more is returned if there are more.

    Raises:
        PromptError: it is no prompt, or more than one.
        CheckpointError: the chat template fails.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise PromptError(f"{where} is empty; give at least one word")
        return text.encode(str(prompt))
    if isinstance(prompt, Tensor | np.ndarray | np.generic):
        return _ids(_row(prompt, where), where, most)
    _check_iterable(prompt, where)
    assert isinstance(prompt, Iterable)
    first, items = _peeked(prompt)
    if isinstance(first, Mapping):
        return text.encode([*items])  # pyrefly: ignore[bad-argument-type]
    if isinstance(first, str):
        raise PromptError(
            f"{where} holds {shown(first)}, which is text; give one text alone, or several "
            f"to generate_batch"
        )
    if isinstance(first, (list, tuple, np.ndarray)) or (isinstance(first, Tensor) and first.ndim):
        rows = list(islice(items, 2))
        if len(rows) > 1:
            raise PromptError(f"{where} holds several prompts; give them to generate_batch")
        return encode(rows[0], text, where, most)
    return _ids(items, where, most)


def check_ids(ids: Sequence[int], where: str, vocab_size: int) -> None:
    """Refuse ids that a model does not have.

    Args:
        ids: of a prompt.
        where: names it in errors.
        vocab_size: of the model.

    Raises:
        PromptError: there are some.
    """
    for token in ids:
        if not 0 <= token < vocab_size:
            raise PromptError(
                f"{where} holds id {shown(token)}, outside the model's vocabulary of "
                f"{vocab_size} (0 to {vocab_size - 1})"
            )


def several(prompts: object) -> list[object]:
    """The prompts of a batch.

    Raises:
        PromptError: it is no collection of prompts, or an empty one.
    """
    if isinstance(prompts, Tensor):
        _check_dense(prompts, "the batch")
    if isinstance(prompts, Tensor | np.ndarray):
        if prompts.ndim == 0:
            raise PromptError("generate_batch was given one number; it needs a list of prompts")
        if prompts.ndim == 1 and not (isinstance(prompts, np.ndarray) and _is_text(prompts)):
            raise PromptError(
                f"generate_batch was given ids of shape {list(prompts.shape)}, which are one "
                f"prompt; give it to generate, or in a list"
            )
        found = prompts.tolist() if _is_text(prompts) else list(prompts)
    elif isinstance(prompts, _NO_BATCH) or not isinstance(prompts, Iterable):
        raise PromptError(
            f"generate_batch was given {shown(prompts)}; it needs a list of at least one prompt"
        )
    else:
        found = list(prompts)
    if not found:
        raise PromptError("generate_batch needs a list of at least one prompt")
    return found


def _check_iterable(prompt: object, where: str) -> None:
    if isinstance(prompt, bytes | bytearray | memoryview):
        raise PromptError(
            f"{where} is {shown(prompt)}, which may be text or ids; give text: "
            f"prompt.decode('utf-8')"
        )
    if isinstance(prompt, Mapping):
        remedy = (
            "give its ids: prompt['input_ids']"
            if "input_ids" in prompt
            else "write [message]; several of them are a list of lists for generate_batch"
        )
        raise PromptError(f"{where} is {shown(prompt)}; a conversation is a list: {remedy}")
    if isinstance(prompt, (set, frozenset)) or not isinstance(prompt, Iterable):
        raise PromptError(
            f"{where} is {shown(prompt)}; give text, a list of messages, or a list of token ids"
        )


def _check_dense(ids: Tensor, where: str) -> None:
    if ids.is_meta or ids.layout != torch.strided:
        kind = "a meta tensor" if ids.is_meta else f"a tensor of layout {ids.layout}"
        raise PromptError(f"{where} is {kind}, whose values cannot be listed; give a dense one")


def _row(ids: Tensor | np.ndarray | np.generic, where: str) -> list[object]:
    """The ids of a tensor or array [L] or [1, L]."""
    shape = list(ids.shape)
    if isinstance(ids, Tensor):
        _check_dense(ids, where)
    whole = (
        not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
        if isinstance(ids, Tensor)
        else ids.dtype.kind in "iu"
    )
    if not whole:
        raise PromptError(f"{where} has ids of type {ids.dtype}; token ids are whole numbers")
    if len(shape) == 2 and shape[0] > 1:
        raise PromptError(
            f"{where} has ids of shape {shape}, which are {shape[0]} prompts; give them to "
            f"generate_batch"
        )
    if len(shape) not in (1, 2):
        raise PromptError(f"{where} has ids of shape {shape}, must be [L] or [1, L]")
    return ids.reshape(-1).tolist()


def _ids(ids: Iterable[object], where: str, most: int) -> list[int]:
    """Ids as plain integers, whatever kind of integer they were given as."""
    found = [_whole(token, where) for token in islice(ids, most + 1)]
    if not found:
        raise PromptError(f"{where} is empty; give at least one token id")
    return found


def _whole(token: object, where: str) -> int:
    wrong = PromptError(f"{where} holds {shown(token)}; token ids are whole numbers")
    if isinstance(token, bool | np.bool_) or not isinstance(token, SupportsIndex):
        raise wrong
    try:
        return operator.index(token)
    # A tensor of one number is an index only if it is a whole one.
    except TypeError:
        raise wrong from None


def _peeked(items: Iterable[object]) -> tuple[object, Iterator[object]]:
    """The first item, and all of them."""
    rest = iter(items)
    head = list(islice(rest, 1))
    return (head[0] if head else None), chain(head, rest)


def _is_text(values: Tensor | np.ndarray) -> bool:
    return isinstance(values, np.ndarray) and values.dtype.kind in "UO"


def with_stops(own: Sequence[int], more: Sequence[int]) -> tuple[int, ...]:
    """Ids that end a request: its own, and more.

    Raises:
        ConfigError: they are too many.
    """
    every = tuple(dict.fromkeys([*own, *more]))
    if len(every) > MOST_STOP_IDS:
        raise ConfigError(
            f"stop_ids are {len(every)} with EOS, must be at most {MOST_STOP_IDS}; give fewer"
        )
    return every
