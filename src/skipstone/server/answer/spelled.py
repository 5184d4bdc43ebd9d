"""Tokens as clients read them: text, or bytes where a token is half a character."""

from __future__ import annotations

from skipstone.text import Text


def spelled(text: Text, token: int) -> tuple[str, list[int] | None]:
    """A token's text and its bytes in UTF-8.

    Args:
        text: of the model.
        token: its id.
    """
    found = text.bytes_of(token)
    if found is None:
        return text.token(token), None
    try:
        return found.decode(), list(found)
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in found), list(found)
