"""What a run gives back: the tokens, the text, and what the work was."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from skipstone.engine.settings import Settings
from skipstone.sentence import after_end, counted


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
    edited: int = 0
    """Committed tokens that were replaced."""
    revoked: int = 0
    """Committed tokens that became masks again."""
    skippable_mlps: int = 0
    """Row-layers that attended, and of which a cache policy could leave out the MLP."""
    skipped_mlps: int = 0
    """Those of which it did; they are no skipped row-layers."""
    values_renewed: int = 0
    """Row-layers whose values were computed for a cache policy to choose by, beside what layers
    compute."""
    shadow_rows: int = 0
    """Rows that were computed beside these, to score committed tokens where they are not seen."""


@dataclass(frozen=True, repr=False)
class Stats:
    """The work of one request; ``print`` tells it in one line.

    Attributes: ``steps`` (one ``StepStats`` a forward), ``seconds``, ``generated``,
    ``run_generated``, ``reused``, ``num_forwards``, ``num_refreshes``, ``num_edits``,
    ``num_revoked``, ``skip_share``, ``mlp_share``, ``tokens_per_second``.
    """

    steps: tuple[StepStats, ...]
    seconds: float
    """Wall-clock time of the whole run; shared by all requests of a batch."""
    generated: int
    """New tokens up to the first EOS; EOS, masks and the prompt are not counted."""
    run_generated: int
    """The same over all requests of the batch."""
    reused: int = 0
    """Positions of the prompt whose keys and values were taken over from an earlier request."""

    def __str__(self) -> str:
        return (
            f"{counted(self.generated, 'token')}, {counted(self.num_forwards, 'forward')}, "
            f"{self.seconds:.2f} s, "
            f"{self.tokens_per_second:.1f} tokens/s, {self.skip_share:.1%} of row-layers skipped"
            + (f", {self.mlp_share:.1%} of MLPs left out" if self.mlp_share else "")
            + (f", {counted(self.num_edits, 'edit')}" if self.num_edits else "")
            + (f", {counted(self.num_revoked, 'token')} taken back" if self.num_revoked else "")
            + (f", {counted(self.reused, 'prompt token')} reused" if self.reused else "")
        )

    def __repr__(self) -> str:
        return f"<Stats: {self}>"

    @property
    def num_forwards(self) -> int:
        """Forwards (NFE) that this request took part in, refreshes included."""
        return len(self.steps)

    @property
    def num_refreshes(self) -> int:
        """Forwards that recomputed every row from scratch."""
        return sum(step.refresh for step in self.steps)

    @property
    def num_edits(self) -> int:
        """Times that a committed token was replaced."""
        return sum(step.edited for step in self.steps)

    @property
    def num_revoked(self) -> int:
        """Times that a committed token became a mask again."""
        return sum(step.revoked for step in self.steps)

    @property
    def skip_share(self) -> float:
        """Row-layers skipped, as a share of those that could have been; 0 if there were none."""
        could = sum(step.skippable_row_layers for step in self.steps)
        return sum(step.skipped_row_layers for step in self.steps) / could if could else 0.0

    @property
    def mlp_share(self) -> float:
        """Row-layers that attended and had no MLP computed, as a share of those that could."""
        could = sum(step.skippable_mlps for step in self.steps)
        return sum(step.skipped_mlps for step in self.steps) / could if could else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens of the whole run per second."""
        return self.run_generated / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, repr=False)
class Result:
    """The answer to one prompt; ``print`` shows its text, a notebook all about it.

    Attributes: ``text``, ``tokens``, ``length``, ``prompt_tokens``, ``masks_left``, ``stats``,
    ``settings``, ``notes``.
    """

    text: str
    """Up to the first EOS; masks that are left are shown as such."""
    tokens: tuple[int, ...]
    """All new ids, ``gen_length`` of them; an early stop fills what was still masked with EOS."""
    length: int
    """How many of them stand before the first EOS; masks that are left are counted."""
    prompt_tokens: int
    masks_left: int
    stats: Stats
    settings: Settings
    notes: tuple[str, ...]
    """What was set or switched on and did nothing, and what is missing from the answer."""

    @property
    def answer(self) -> tuple[int, ...]:
        """New ids up to the first EOS: those of ``text``."""
        return self.tokens[: self.length]

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        masks = f", {self.masks_left} masks left" if self.masks_left else ""
        return f"<Result {_brief(self.text)!r}: {self.stats}{masks}>"

    def _repr_html_(self) -> str:
        """The answer and what it took, for a notebook."""
        rows = {"took": str(self.stats), "prompt": f"{self.prompt_tokens} tokens"}
        rows |= {f"note {i}": note for i, note in enumerate(self.notes, start=1)}
        settings = " ".join(f"{name}={value}" for name, value in self.settings.as_text().items())
        rows["settings"] = settings
        cells = "".join(
            f'<tr><th style="text-align:left">{escape(name)}</th>'
            f'<td style="text-align:left">{escape(value)}</td></tr>'
            for name, value in rows.items()
        )
        end = after_end(self.tokens[self.length :])
        mark = f' <span style="opacity:0.6">{end}</span>' if end else ""
        answer = f'<pre style="white-space:pre-wrap">{escape(self.text)}{mark}</pre>'
        return f"{answer}<table>{cells}</table>"

    def as_json(self) -> dict[str, object]:
        """The object that ``--json`` prints; ``tokens`` end before the first EOS."""
        return {
            "tokens": list(self.answer),
            "text": self.text,
            "prompt_tokens": self.prompt_tokens,
            "reused_tokens": self.stats.reused,
            "num_forwards": self.stats.num_forwards,
            "num_edits": self.stats.num_edits,
            "masks_left": self.masks_left,
            "skip_share": self.stats.skip_share,
            "mlp_share": self.stats.mlp_share,
            "seconds": self.stats.seconds,
            "tokens_per_second": self.stats.tokens_per_second,
            "notes": list(self.notes),
            "settings": self.settings.as_json(),
        }


def _brief(text: str, longest: int = 60) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
