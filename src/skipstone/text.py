"""Text in, ids out, and back: tokenizer, chat template, and special text inside a prompt.

A prompt may contain the text of a special token, the mask's included. It is encoded as the ordinary
text it is: what a user types never becomes a mask or the end of a turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from itertools import count, groupby
from pathlib import Path

from jinja2 import Template, TemplateError, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from skipstone.errors import CheckpointError, PromptError
from skipstone.files import Json, one_line, read_json

# Stands in for the prompt while the text around it is found; private use, so no prompt has it.
_PLACEHOLDER = "\ue000prompt\ue000"
# A chat template needs a handful of loop turns, and no arithmetic to speak of.
_MOST_TURNS = 10_000
_LARGEST_PRODUCT = 1_000_000


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
        self.template = template
        """The source of the chat template; None if the model has none."""
        self._tokenizer = tokenizer
        self._special = special
        self._mask_id = mask_id
        self._eos_id = eos_id
        self._source = source
        self._template = None if template is None else _compile(template, source)
        # Only what is marked as special can be kept as text, and published files forget the mark.
        names = [tokenizer.id_to_token(token) for token in (mask_id, eos_id)]
        tokenizer.add_special_tokens([name for name in names if name is not None])
        added = tokenizer.get_added_tokens_decoder().items()
        self._reserved = {token for token, about in added if about.special} | {mask_id, eos_id}

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
            raise CheckpointError(
                f"{path} is not a tokenizer ({one_line(error)}); copy it from the published "
                f"checkpoint"
            ) from None
        tokenizer.no_padding()
        tokenizer.no_truncation()
        largest = max(tokenizer.get_vocab().values(), default=0)
        if largest >= vocab_size:
            raise CheckpointError(
                f"{path} has id {largest}, beyond the {vocab_size} ids of config.json; copy both "
                f"from the same published checkpoint"
            )
        settings = directory / "tokenizer_config.json"
        values = read_json(settings) if settings.exists() else {}
        return cls(
            tokenizer,
            template=_read_template(directory, values),
            special=_named_tokens(values),
            mask_id=mask_id,
            eos_id=eos_id,
            source=str(directory),
        )

    def encode(self, prompt: str) -> list[int]:
        """Ids of a prompt as one user turn, ready for the answer to follow.

        Raises:
            PromptError: the prompt is empty or no text, or its special text cannot be kept as text.
            CheckpointError: the template fails or reaches for something it may not have.
        """
        if not prompt.strip():
            raise PromptError("the prompt is empty; give at least one word")
        _check_unicode(prompt)
        whole = self._render(prompt)
        # The tokenizer is asked, not the text: it may find special text after normalising.
        if self._reserved.isdisjoint(self._ids(prompt, as_text=False)):
            return self._ids(whole, as_text=False)
        before, found, after = self._render(_PLACEHOLDER).partition(_PLACEHOLDER)
        if not found or not (whole.startswith(before) and whole.endswith(after)):
            raise PromptError(
                "the prompt holds the text of a special token, and the chat template changes the "
                "prompt so that it cannot be told apart; remove the special text"
            )
        middle = self._ids(whole[len(before) : len(whole) - len(after)], as_text=True)
        unread = sorted(self._reserved.intersection(middle))
        if unread:
            raise PromptError(
                f"the prompt holds {', '.join(map(self.token, unread))}, which this tokenizer "
                f"cannot read as ordinary text; remove it"
            )
        return [*self._ids(before, as_text=False), *middle, *self._ids(after, as_text=False)]

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of text as it stands: no template is applied, and special text is what it names.

        Raises:
            PromptError: it is not valid Unicode, or names the mask.
        """
        _check_unicode(text)
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

    def token(self, token: int) -> str:
        """Text of one token, special ones by name."""
        return self._tokenizer.decode([token], skip_special_tokens=False)

    def _render(self, content: str) -> str:
        return (
            content
            if self._template is None
            else self.render([{"role": "user", "content": content}])
        )

    def render(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True
    ) -> str:
        """A conversation in the chat template, as text.

        Args:
            messages: turns, each with ``role`` and ``content``.
            add_generation_prompt: end where the model's next turn begins.

        Raises:
            CheckpointError: there is no template, it fails, or it reaches for something unsafe.
        """
        if self._template is None:
            raise CheckpointError(f"{self._source} has no chat template; use one that has")
        turns = count(1)
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                raise_exception=_refuse,
                count_turn=lambda: _count_turn(next(turns)),
                **self._special,
            )
        except SecurityError as error:
            raise CheckpointError(
                f"{self._source}: the chat template reaches for something unsafe "
                f"({one_line(error)}); use a template you trust"
            ) from None
        # The template is somebody else's program: whatever it raises is its own failure.
        except Exception as error:
            raise CheckpointError(
                f"{self._source}: the chat template fails ({one_line(error)}); use the template of "
                f"the published checkpoint"
            ) from None

    def _ids(self, text: str, *, as_text: bool) -> list[int]:
        self._tokenizer.encode_special_tokens = as_text
        return self._tokenizer.encode(text, add_special_tokens=False).ids


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox keeps a template from the system; this one also bounds its work.

    Turns of loops and calls of macros are counted, and products have a largest size. Otherwise one
    line of a downloaded template could keep the process busy for ever.
    """

    intercepted_binops = frozenset(["*", "**"])

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            call = nodes.Call(nodes.Name("count_turn", "load"), [], [], None, None)
            node.body.insert(0, nodes.ExprStmt(call).set_lineno(node.lineno))
        return tree

    def unsafe_undefined(self, obj: object, attribute: str) -> Undefined:
        """Refuse at once; Jinja's own sandbox prints nothing until the value is used further."""
        raise SecurityError(f"attribute {attribute!r} of a {type(obj).__name__}")

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        """Refuse a product or power that is too large; the compiled template calls this."""
        if _size(left) * _size(right) > _LARGEST_PRODUCT:
            raise SecurityError(f"{operator} with operands this large")
        return super().call_binop(context, operator, left, right)


def _check_unicode(text: str) -> None:
    """Refuse half characters, which no tokenizer takes; a shell makes them of what is no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the prompt is not valid Unicode text ({error.reason} at character "
            f"{error.start}); give it as UTF-8"
        ) from None


def _size(operand: object) -> int:
    """The number itself, or the length of a text or list."""
    if isinstance(operand, int | float):
        return int(min(abs(operand), _LARGEST_PRODUCT + 1)) or 1
    return len(operand) if isinstance(operand, Sized) else 1


def _count_turn(turn: int) -> None:
    if turn > _MOST_TURNS:
        raise SecurityError(f"more than {_MOST_TURNS} turns of its loops")


def _compile(template: str, source: str) -> Template:
    try:
        return _Sandbox(trim_blocks=True, lstrip_blocks=True).from_string(template)
    # Python's own compiler refuses what is nested too deeply.
    except (TemplateError, RecursionError, SyntaxError, MemoryError) as error:
        raise CheckpointError(
            f"{source}: the chat template does not parse ({one_line(error)}); use the template of "
            f"the published checkpoint"
        ) from None


def _read_template(directory: Path, values: Json) -> str | None:
    """The chat template, from its own file or from tokenizer_config.json; None if there is none."""
    own = directory / "chat_template.jinja"
    if own.exists():
        try:
            return own.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"{own} cannot be read as text ({one_line(error)}); copy it from the published "
                f"checkpoint"
            ) from None
    template = values.get("chat_template")
    if template is not None and not isinstance(template, str):
        raise CheckpointError(
            f"{directory / 'tokenizer_config.json'}: chat_template is a {type(template).__name__}, "
            f"must be one text; keep one template"
        )
    return template


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
