"""Text in, ids out, and back: tokenizer, chat template, and special text inside a prompt.

A prompt may contain the text of a special token, the mask's included. It is encoded as the ordinary
text it is: what a user types never becomes a mask or the end of a turn.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from tokenizers import Tokenizer

from skipstone.errors import CheckpointError, PromptError
from skipstone.quoting import one_line, shown
from skipstone.text.kept import left_out
from skipstone.text.messages import (
    Conversation,
    Message,
    other_texts,
    plain,
    plain_value,
    texts,
    user_turn,
    with_texts,
)
from skipstone.text.published import read_settings
from skipstone.text.special import read_special
from skipstone.text.spelling import bytes_of
from skipstone.text.templates import DEFAULT, ChatTemplate, choose, read_templates
from skipstone.text.tokenizer import mark_special, read_tokenizer

# Stand in for what people wrote while the text around it is found; private use, so no prompt has
# them.
_PLACEHOLDER = "\ue000{}\ue000"
_PLACEHOLDERS = re.compile("\ue000([0-9]+)\ue000")
# More text than any model has positions for; reading it would take minutes.
_MOST_CHARACTERS = 4_000_000


class Text:
    """Encodes prompts and decodes canvases of one model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        template: str | Mapping[str, ChatTemplate] | None,
        special: Mapping[str, str],
        mask_id: int,
        eos_id: int,
        source: str,
    ) -> None:
        """Compile the template; ``special`` are the named tokens it may mention.

        Raises:
            CheckpointError: the template does not parse.
        """
        named = {DEFAULT: ChatTemplate(template, source)} if isinstance(template, str) else template
        self._templates = dict(named or {})
        self._tokenizer = tokenizer
        # How it reads special text is a state of it, which threads must not change for each other.
        self._reading = threading.Lock()
        self._special = dict(special)
        self._mask_id = mask_id
        self._eos_id = eos_id
        self._source = source
        names = [tokenizer.id_to_token(token) for token in (mask_id, eos_id)]
        mark_special(tokenizer, [name for name in names if name is not None])
        added = tokenizer.get_added_tokens_decoder()
        reserved = {token for token, about in added.items() if about.special}
        self._reserved = reserved | {mask_id, eos_id}
        self._added = frozenset(added)

    @classmethod
    def read(cls, directory: Path, mask_id: int, eos_id: int, vocab_size: int) -> Text:
        """Read the tokenizer, the special tokens and the chat templates of a checkpoint.

        Raises:
            CheckpointError: a file is missing or broken, or the tokenizer has more ids than the
                model.
        """
        settings = read_settings(directory / "tokenizer_config.json")
        special = read_special(directory, settings)
        return cls(
            read_tokenizer(directory, special, vocab_size),
            template=read_templates(directory, settings),
            special=special.named,
            mask_id=mask_id,
            eos_id=eos_id,
            source=str(directory),
        )

    @property
    def template(self) -> str | None:
        """The source of the default chat template; None if the model has none."""
        found = self._templates.get(DEFAULT)
        return None if found is None else found.text

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how this model's prompts are read."""
        if self._templates:
            return ()
        return (
            "the model has no chat template: the prompt was encoded as it stands, without turns or "
            "special tokens",
        )

    def encode(self, prompt: str | Conversation) -> list[int]:
        """Ids of a prompt as one user turn, or of a conversation, ready for the answer to follow.

        Args:
            prompt: text, or messages with ``role`` and ``content``.

        Raises:
            PromptError: the prompt is empty or no text, or its special text cannot be kept as text.
            CheckpointError: the template fails, reaches for something it may not have, takes too
                much time or memory, or leaves out the prompt.
        """
        if isinstance(prompt, str):
            _check_text(prompt)
            if not prompt.strip():
                raise PromptError("the prompt is empty; give at least one word")
            if not self._templates:
                return self._encoded([(prompt, self._holds_special(prompt))])
        turns = user_turn(prompt) if isinstance(prompt, str) else self._turns(prompt)
        whole, around = self._rendered(turns)
        if not any(self._holds_special(text) for _, text in texts(turns)):
            return self._ids(whole, as_text=False)
        pieces = None if around is None else _pieces(whole, around, [t for _, t in texts(turns)])
        if pieces is None:
            raise PromptError(
                "the prompt holds the text of a special token, and the chat template changes the "
                "prompt so that it cannot be told apart; remove the special text"
            )
        return self._encoded(pieces)

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of text as it stands: no template is applied, and special text is what it names.

        Raises:
            PromptError: it is not valid Unicode, or names the mask.
        """
        _check_text(text)
        ids = self._ids(text, as_text=False)
        if self._mask_id in ids:
            raise PromptError(
                f"the text holds {self.token(self._mask_id)}, which would be a position to decode; "
                f"remove it"
            )
        return ids

    def decode(self, ids: Sequence[int], masked: Sequence[bool] | None = None) -> str:
        """Text of new tokens up to the first EOS, special tokens left out.

        Args:
            ids: token ids.
            masked: where a mask is left; each run of them is shown as ``⟨3 masks left⟩``.
        """
        flags = masked if masked is not None else [False] * len(ids)
        shown = list(zip(ids, flags, strict=True))
        ends = [
            i for i, (token, is_mask) in enumerate(shown) if token == self._eos_id and not is_mask
        ]
        pieces = list[str]()
        for is_mask, run in groupby(shown[: ends[0] if ends else None], key=lambda pair: pair[1]):
            tokens = [token for token, _ in run]
            left = f"⟨{len(tokens)} mask{'s' * (len(tokens) > 1)} left⟩"
            pieces.append(left if is_mask else self._tokenizer.decode(tokens))
        return "".join(pieces)

    def ids_of_special(self, names: Sequence[str]) -> tuple[int, ...]:
        """Ids of special tokens, of those that this tokenizer has."""
        found = (self._tokenizer.token_to_id(name) for name in names)
        return tuple(token for token in found if token is not None)

    def token(self, token: int) -> str:
        """Text of one token, special ones by name."""
        return self._tokenizer.decode([token], skip_special_tokens=False)

    def bytes_of(self, token: int) -> bytes | None:
        """What one token adds to a text, as UTF-8, of which it may be half a character.

        None if the tokenizer does not say so.
        """
        if token in self._added:
            return self.token(token).encode()
        return bytes_of(self._tokenizer, token)

    def passages(self, ids: Sequence[int]) -> list[str]:
        """The texts between special tokens, without space around them."""
        runs = groupby(ids, key=lambda token: token in self._reserved)
        texts = [
            self._tokenizer.decode(list[int](run)).strip() for special, run in runs if not special
        ]
        return [text for text in texts if text]

    def render(
        self,
        messages: Conversation,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, object]] | None = None,
        documents: Sequence[Mapping[str, object]] | None = None,
    ) -> str:
        """A conversation in the chat template, as text.

        Args:
            messages: turns, each with ``role`` and ``content``.
            add_generation_prompt: end where the model's next turn begins.
            tools: JSON schemas of what the model may call.
            documents: each with ``title`` and ``text``.

        Raises:
            PromptError: the messages are no conversation.
            CheckpointError: there is no template, it fails, reaches for something unsafe, or takes
                too much time or memory.
        """
        template = choose(self._templates, self._source, tools=tools is not None)
        if template is None:
            raise CheckpointError(f"{self._source} has no chat template; use one that has")
        turns = plain(messages)
        variables = {
            **self._special,
            "messages": turns,
            "tools": plain_value(tools, "tools"),
            "documents": plain_value(documents, "documents"),
            "add_generation_prompt": add_generation_prompt,
        }
        return template.render(variables, _characters([turns, tools, documents]))

    def _turns(self, messages: Conversation) -> list[dict[str, object]]:
        if not self._templates:
            raise PromptError(
                f"{self._source} has no chat template, which messages need; give the prompt as text"
            )
        turns = plain(messages)
        for _, text in texts(turns):
            _check_text(text)
        if not any(text.strip() for _, text in texts(turns)):
            raise PromptError("the prompt is empty; give at least one word")
        for text in other_texts(turns):
            _check_text(text)
            if self._holds_special(text):
                raise PromptError(
                    f"a message has {shown(text)} outside of its content, which is the text of a "
                    f"special token; remove it"
                )
        return turns

    def _rendered(self, turns: Sequence[Message]) -> tuple[str, str | None]:
        """A conversation as text, and the same with placeholders for what is said in it.

        Raises:
            CheckpointError: what is said is not in the text.
        """
        whole = self.render(turns)
        try:
            around = self.render(with_texts(turns, lambda i, _: _PLACEHOLDER.format(i)))
        except CheckpointError:
            around = None  # a template may refuse a conversation for its words
        lost = next(texts(turns))[1] if around == whole else left_out(turns, whole)
        if lost is not None:
            template = choose(self._templates, self._source, tools=False)
            assert template is not None
            raise template.refused(f"leaves out {shown(lost)}, which is part of the prompt")
        return whole, around

    def _holds_special(self, text: str) -> bool:
        # The tokenizer is asked, not the text: it may find special text after normalising.
        return not self._reserved.isdisjoint(self._ids(text, as_text=False))

    def _encoded(self, pieces: Sequence[tuple[str, bool]]) -> list[int]:
        """Ids of pieces of text, each with whether special text in it stays text."""
        ids = list[int]()
        for text, as_text in pieces:
            found = self._ids(text, as_text=as_text)
            unread = sorted(self._reserved.intersection(found)) if as_text else []
            if unread:
                raise PromptError(
                    f"the prompt holds {', '.join(map(self.token, unread))}, which this tokenizer "
                    f"cannot read as ordinary text; remove it"
                )
            ids += found
        return ids

    def _ids(self, text: str, *, as_text: bool) -> list[int]:
        try:
            with self._reading:
                self._tokenizer.encode_special_tokens = as_text
                return self._tokenizer.encode(text, add_special_tokens=False).ids
        # The tokenizers package panics, which is no Exception, where a pattern takes too long.
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise CheckpointError(
                f"{self._source}: the tokenizer cannot read the prompt ({one_line(error)}); "
                f"use the tokenizer of the published checkpoint"
            ) from None


def _pieces(whole: str, around: str, said: Sequence[str]) -> list[tuple[str, bool]] | None:
    """Cut a rendered conversation into the template's text and what people wrote (True).

    Args:
        whole: the conversation.
        around: the same with placeholders.
        said: what the placeholders stand for.

    Returns:
        None if the two do not fit: the template writes other text around other words.
    """
    parts = _PLACEHOLDERS.split(around)
    fixed, numbers = parts[::2], [int(number) for number in parts[1::2]]
    if len(fixed) < 2 or not whole.startswith(fixed[0]):
        return None
    pieces, at = [(fixed[0], False)], len(fixed[0])
    for number, after in zip(numbers[:-1], fixed[1:-1], strict=True):
        text = said[number]
        forms = (text, text.strip(), text.rstrip(), text.lstrip())
        form = next((form for form in forms if whole.startswith(form + after, at)), None)
        if form is None:
            return None
        pieces += [(form, True), (after, False)]
        at += len(form) + len(after)
    end = len(whole) - len(fixed[-1])
    if end < at or not whole.endswith(fixed[-1]):
        return None
    return [*pieces, (whole[at:end], True), (fixed[-1], False)]


def _check_text(text: str) -> None:
    """Refuse half characters, which no tokenizer takes; a shell makes them of what is no UTF-8."""
    if len(text) > _MOST_CHARACTERS:
        raise PromptError(
            f"the prompt has {len(text)} characters, more than {_MOST_CHARACTERS}; shorten it"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the prompt is not valid Unicode text ({error.reason} at character "
            f"{error.start}); give it as UTF-8"
        ) from None


def _characters(value: object) -> int:
    """How much people wrote."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_characters, value)) + sum(map(_characters, value.values()))
    return 1 + sum(map(_characters, value)) if isinstance(value, (list, tuple)) else 1
