"""What people should know of an architecture: its checkpoints, what was checked, how to decode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Guide:
    """Of one entry of the table, as ``skipstone models`` and docs/models.md show it."""

    checkpoints: str
    """Published models that it loads."""
    ids: str
    """Special ids that its published checkpoints have, and where the mask's comes from."""
    chat: str
    """How its chat models are talked to; the template is the checkpoint's own."""
    verified: tuple[str, ...]
    """What was compared with what, a sentence each."""
    recommended: Mapping[str, str] = field(default_factory=dict)
    """Settings by which its authors decode, as texts, where they are not Skipstone's defaults."""
    by: str = "its authors decode with Skipstone's defaults, or say nothing"
    """Where the recommendation is from."""
    missing: tuple[str, ...] = ()
    """What of it is not supported or was not checked, and why, a sentence each."""

    @property
    def spec(self) -> str:
        """The recommendation as a run spec; empty if there is none."""
        return " ".join(f"{name}={text}" for name, text in self.recommended.items())
