"""Conversations: what a caller may give, and the plain copy that a template is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from skipstone.errors import PromptError
from skipstone.quoting import shown

Message = Mapping[str, object]
"""One turn: ``role``, ``content`` (text, or a list of ``{"type": "text", "text": ...}``), and what
else the template knows."""
Conversation = Sequence[Message]

# Names under which the field writes what a model thought before it answered.
_REASONING = ("reasoning_content", "thinking", "reasoning")
_MOST_NESTED = 50


def user_turn(prompt: str) -> list[dict[str, object]]:
    """A prompt as the conversation that it is."""
    return [{"role": "user", "content": prompt}]


def plain(messages: Conversation) -> list[dict[str, object]]:
    """A copy of lists, dicts, texts, numbers and nothing else; a key without a value is left out.

    Raises:
        PromptError: it is no conversation.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        raise PromptError(f"a conversation is a list of messages, and not {shown(messages)}")
    return [_turn(message, i) for i, message in enumerate(messages)]


def texts(turns: Sequence[Message]) -> Iterator[tuple[Message, str]]:
    """What is said, with the turn in which it is."""
    for turn in turns:
        content = turn.get("content")
        if isinstance(content, str):
            yield turn, content
        elif isinstance(content, list):
            for part in content:
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    yield turn, part["text"]


def with_texts(
    turns: Sequence[Message], replace: Callable[[int, str], str]
) -> list[dict[str, object]]:
    """The same conversation with other words; the order is that of ``texts``."""
    number = -1

    def changed(text: str) -> str:
        nonlocal number
        number += 1
        return replace(number, text)

    def part(one: object) -> object:
        if isinstance(one, dict) and isinstance(one.get("text"), str):
            return {**one, "text": changed(one["text"])}
        return one

    result = list[dict[str, object]]()
    for turn in turns:
        content = turn.get("content")
        if isinstance(content, str):
            result.append({**turn, "content": changed(content)})
        elif isinstance(content, list):
            result.append({**turn, "content": [part(one) for one in content]})
        else:
            result.append(dict(turn))
    return result


def other_texts(turns: Sequence[Message]) -> Iterator[str]:
    """Every text that is not what is said: roles, names, calls of tools, and keys."""
    waiting: list[object] = [{k: v for k, v in t.items() if k != "content"} for t in turns]
    waiting += [
        {k: v for k, v in part.items() if k != "text"}
        for turn in turns
        if isinstance(content := turn.get("content"), list)
        for part in content
        if isinstance(part, dict)
    ]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting.extend(one)
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)


def _turn(message: object, number: int) -> dict[str, object]:
    if not isinstance(message, Mapping):
        raise PromptError(
            f"message {number} is {shown(message)}; a message is "
            f'{{"role": "user", "content": "..."}}'
        )
    role = message.get("role")
    if not isinstance(role, str) or not role.strip():
        raise PromptError(
            f"message {number} has {shown(role)} under 'role'; write 'user', 'assistant' or "
            f"'system'"
        )
    content = message.get("content")
    if not isinstance(content, (str, list, tuple)) and not (content is None and len(message) > 2):
        raise PromptError(f"message {number} has {shown(content)} under 'content', must be text")
    turn = {
        str(key): plain_value(value, f"message {number}")
        for key, value in message.items()
        if value is not None
    }
    thought = next((turn[key] for key in _REASONING if key in turn), None)
    return turn if thought is None else {"thinking": thought, **turn, "reasoning_content": thought}


def plain_value(value: object, where: str, depth: int = 0) -> object:
    """Lists, dicts, texts and numbers rebuilt; a template is shown no other objects.

    Raises:
        PromptError: it is of another kind, or nested too deeply.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if depth > _MOST_NESTED:
        raise PromptError(f"{where} is nested more than {_MOST_NESTED} deep; make it flatter")
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {str(k): plain_value(v, where, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(one, where, depth + 1) for one in value]
    raise PromptError(
        f"{where} holds {shown(value)}; a conversation is made of text, numbers, lists and dicts"
    )
