"""Text in, ids out, and back: tokenizer, chat template, and special text inside a prompt.

A prompt may contain the text of a special token, the mask's included. It is encoded as the ordinary
text it is: what a user types never becomes a mask or the end of a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from skipstone.errors import CheckpointError, PromptError
from skipstone.files import read_json

# Stands in for the prompt while the text around it is found; private use, so no prompt has it.
_PLACEHOLDER = "\ue000prompt\ue000"


class Text:
    """Encodes prompts and decodes canvases of one model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        template: str | None,
        special: dict[str, str],
        mask_id: int,
        eos_id: int,
        source: str,
    ) -> None:
        """Prepare the sandboxed template; ``special`` are the named tokens it may mention."""
        self._tokenizer = tokenizer
        self._special = special
        self._mask_id = mask_id
        self._eos_id = eos_id
        self._source = source
        self._reserved = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        try:
            self._template = None if template is None else environment.from_string(template)
        except TemplateError as error:
            raise CheckpointError(f"{source}: the chat template does not parse ({error})") from None

    @classmethod
    def read(cls, directory: Path, mask_id: int, eos_id: int, vocab_size: int) -> Text:
        """Read tokenizer.json, tokenizer_config.json and chat_template.jinja of a checkpoint.

        Raises:
            CheckpointError: a file is missing or broken, or the tokenizer has more ids than the
                model.
        """
        path = directory / "tokenizer.json"
        if not path.exists():
            raise CheckpointError(f"{path} does not exist; copy it from the published checkpoint")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        # The tokenizers package raises bare Exception for a file that it cannot parse.
        except Exception as error:
            raise CheckpointError(f"{path} is not a tokenizer ({error})") from None
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if tokenizer.get_vocab_size() > vocab_size:
            raise CheckpointError(
                f"{path} has {tokenizer.get_vocab_size()} ids, more than the {vocab_size} of "
                f"config.json; the files belong to different models"
            )
        settings = directory / "tokenizer_config.json"
        values = read_json(settings) if settings.exists() else {}
        jinja = directory / "chat_template.jinja"
        template = jinja.read_text("utf-8") if jinja.exists() else values.get("chat_template")
        if template is not None and not isinstance(template, str):
            raise CheckpointError(f"{settings}: chat_template is not text; give one template")
        return cls(
            tokenizer,
            template=template,
            special=_named_tokens(values),
            mask_id=mask_id,
            eos_id=eos_id,
            source=str(directory),
        )

    def encode(self, prompt: str) -> list[int]:
        """Ids of a prompt as one user turn, ready for the answer to follow.

        Raises:
            PromptError: the prompt is empty.
            CheckpointError: the template fails or reaches for something it may not have.
        """
        if not prompt.strip():
            raise PromptError("the prompt is empty; give at least one word")
        whole = self._render(prompt)
        if not any(reserved in prompt for reserved in self._reserved):
            return self._ids(whole, as_text=False)
        before, found, after = self._render(_PLACEHOLDER).partition(_PLACEHOLDER)
        if not found or not (whole.startswith(before) and whole.endswith(after)):
            raise PromptError(
                "the prompt holds the text of a special token, and the chat template changes the "
                "prompt so that it cannot be told apart; remove the special text"
            )
        middle = whole[len(before) : len(whole) - len(after)]
        return [
            *self._ids(before, as_text=False),
            *self._ids(middle, as_text=True),
            *self._ids(after, as_text=False),
        ]

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

    def token(self, token: int) -> str:
        """Text of one token, special ones by name."""
        return self._tokenizer.decode([token], skip_special_tokens=False)

    def _render(self, content: str) -> str:
        if self._template is None:
            return content
        messages = [{"role": "user", "content": content}]
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=True,
                raise_exception=_refuse,
                **self._special,
            )
        except SecurityError as error:
            raise CheckpointError(
                f"{self._source}: the chat template reaches for something unsafe ({error}); "
                f"use a template you trust"
            ) from None
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{self._source}: the chat template fails ({error})") from None

    def _ids(self, text: str, *, as_text: bool) -> list[int]:
        self._tokenizer.encode_special_tokens = as_text
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def _refuse(message: str) -> str:
    """What chat templates call to reject a conversation."""
    raise TemplateError(message)


def _named_tokens(values: dict[str, object]) -> dict[str, str]:
    """The bos, eos, pad and mask tokens of tokenizer_config.json, as text."""
    named = dict[str, str]()
    for key in ("bos_token", "eos_token", "pad_token", "mask_token"):
        value = values.get(key)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            named[key] = content
    return named
