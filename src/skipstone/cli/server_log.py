"""The log of ``skipstone serve``: a line for each request, as text or as JSON."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from skipstone.cli.terminal import aside, aside_json

if TYPE_CHECKING:
    from skipstone.server.access.account import Account


def _nothing(account: Account) -> None:
    """For whoever looks at metrics alone."""


def _as_text(account: Account) -> None:
    parts = [
        f"{_now()} {account.method} {account.route} {account.status or '-'}",
        f"{account.seconds:.3f} s",
    ]
    if account.prompt_tokens:
        parts.append(f"{account.prompt_tokens} tokens in, {account.completion_tokens} out")
    if account.first_commit is not None:
        parts.append(f"first after {account.first_commit:.3f} s")
    if account.error is not None:
        parts.append(account.error)
    aside(", ".join([*parts, account.id]))
    for kind, texts in (("prompt", account.prompts), ("answer", account.answers)):
        for text in texts:
            aside(f"  {kind}: {text}")


def _as_json(account: Account) -> None:
    texts = {"prompts": account.prompts, "answers": account.answers} if account.prompts else {}
    first = account.first_commit
    aside_json(
        {
            "time": _now(),
            "id": account.id,
            "method": account.method,
            "route": account.route,
            "status": account.status,
            "error": account.error,
            "prompt_tokens": account.prompt_tokens,
            "completion_tokens": account.completion_tokens,
            "seconds": round(account.seconds, 6),
            "first_commit_seconds": None if first is None else round(first, 6),
            **texts,
        }
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


LOGS: dict[str, Callable[[Account], None]] = {
    "json": _as_json,
    "off": _nothing,
    "text": _as_text,
}
"""What each value of ``--log`` does with a request that is over."""
