"""What a run gives back: the tokens, the text, and what the work was."""

from __future__ import annotations

from dataclasses import dataclass, field

from skipstone.engine.settings import Settings


@dataclass(frozen=True)
class StepStats:
    """The work of one forward for one request."""

    block: int
    step: int
    rows: int
    """Rows that entered layer 1."""
    refresh: bool
    recovery: bool
    committed: int
    skippable_row_layers: int
    """Row-layers below the skip layer in steps where rows may skip."""
    skipped_row_layers: int
    """Row-layers that were not computed."""


@dataclass(frozen=True)
class Stats:
    """The work of one request."""

    steps: tuple[StepStats, ...]
    seconds: float
    """Wall-clock time of the whole run; shared by all requests of a batch."""
    generated: int
    """New tokens up to the first EOS; EOS, masks and the prompt are not counted."""
    run_generated: int
    """The same over all requests of the batch."""

    @property
    def num_forwards(self) -> int:
        """Forwards (NFE) that this request took part in, refreshes included."""
        return len(self.steps)

    @property
    def num_refreshes(self) -> int:
        """Forwards that recomputed every row from scratch."""
        return sum(step.refresh for step in self.steps)

    @property
    def skip_share(self) -> float:
        """Row-layers skipped, as a share of those that could have been; 0 if there were none."""
        could = sum(step.skippable_row_layers for step in self.steps)
        return sum(step.skipped_row_layers for step in self.steps) / could if could else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens of the whole run per second."""
        return self.run_generated / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Result:
    """The answer to one prompt."""

    text: str
    """Up to the first EOS; masks that are left are shown as such."""
    tokens: tuple[int, ...]
    """All new ids, ``gen_length`` of them; an early stop fills what was still masked with EOS."""
    prompt_tokens: int
    masks_left: int
    stats: Stats = field(repr=False)
    settings: Settings
    notes: tuple[str, ...]
    """What was set or switched on and did nothing, and what is missing from the answer."""

    def as_json(self) -> dict[str, object]:
        """The object that ``--json`` prints."""
        return {
            "tokens": list(self.tokens),
            "text": self.text,
            "prompt_tokens": self.prompt_tokens,
            "num_forwards": self.stats.num_forwards,
            "masks_left": self.masks_left,
            "skip_share": self.stats.skip_share,
            "seconds": self.stats.seconds,
            "tokens_per_second": self.stats.tokens_per_second,
            "notes": list(self.notes),
            "settings": self.settings.as_text(),
        }
