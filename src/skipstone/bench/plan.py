"""Which cells are measured: shapes of steps, and generations by their short name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipstone.errors import ConfigError
from skipstone.quoting import shown

if TYPE_CHECKING:
    from skipstone.models.base import ModelConfig

SECTIONS = ("step", "generation", "refresh", "skip", "peer")
BLOCK = 32
_NAME = re.compile(r"(\d+)\+(\d+)/(\d+)(?:x(\d+))?(?:@(\d+))?(?:~(\d+):(0?\.\d+|1))?")


@dataclass(frozen=True)
class StepShape:
    """A cached step."""

    batch: int
    context: int
    """Positions of a request: prompt and new ones."""
    rows: int
    """Rows of a request: its block."""

    def __post_init__(self) -> None:
        """Refuse a step that cannot be timed."""
        if self.batch < 1:
            raise ConfigError(f"--batch has {self.batch}, must be at least 1")
        if self.rows < 8 or self.rows % 8:
            raise ConfigError(
                f"--rows has {self.rows}, must be a multiple of 8: a block of so many rows is "
                f"decoded in rows/2 steps"
            )
        if self.rows >= self.context:
            raise ConfigError(
                f"--context has {self.context}, must be more than --rows ({self.rows}): there is "
                f"a prompt of at least one token"
            )

    def __str__(self) -> str:
        """For those who wait."""
        return f"batch {self.batch}, context {self.context}, {self.rows} rows"


@dataclass(frozen=True)
class Generation:
    """A whole generation at a forced schedule: ``PROMPT+NEW/FORWARDSxBATCH@BLOCK~K:GOING``."""

    prompt: int
    new: int
    forwards: int
    batch: int = 1
    block: int = BLOCK
    skip_layer_k: int = 0
    """0 for no skip."""
    going: float = 1.0
    """Share of the rows that go on past the skip's layer."""

    def __post_init__(self) -> None:
        """Refuse a schedule that blocks do not divide evenly."""
        if self.new < 1 or self.block < 1 or self.new % self.block:
            raise ConfigError(
                f"generation {self}: {self.new} new tokens are no whole number of blocks of "
                f"{self.block}; write PROMPT+NEW/FORWARDSxBATCH@BLOCK with a BLOCK that divides NEW"
            )
        if not self.blocks <= self.forwards <= self.new or self.forwards % self.blocks:
            raise ConfigError(
                f"generation {self}: {self.forwards} forwards do not fit {self.blocks} blocks; use "
                f"a multiple of {self.blocks} up to {self.new}"
            )
        if self.prompt < 1 or self.batch < 1:
            raise ConfigError(f"generation {self}: prompt and batch must be at least 1")

    def __str__(self) -> str:
        """The short name, without what is the default."""
        batch = f"x{self.batch}" if self.batch != 1 else ""
        block = f"@{self.block}" if self.block != BLOCK else ""
        skip = f"~{self.skip_layer_k}:{self.going:g}" if self.skip_layer_k else ""
        return f"{self.prompt}+{self.new}/{self.forwards}{batch}{block}{skip}"

    @property
    def blocks(self) -> int:
        """How many, and so how many refreshes."""
        return self.new // self.block

    @property
    def length(self) -> int:
        """L, all positions of a request."""
        return self.prompt + self.new


@dataclass(frozen=True)
class Plan:
    """All cells of a run."""

    sections: tuple[str, ...]
    steps: tuple[StepShape, ...]
    generations: tuple[Generation, ...]
    refreshes: tuple[int, ...]
    """Positions of each."""
    layers: tuple[int, ...]
    """K of the skips."""
    going: tuple[float, ...]
    """Shares of the rows that go on past K."""

    def check(self, config: ModelConfig) -> None:
        """Refuse what a model cannot hold.

        Raises:
            ConfigError: a cell is too long, or there is no such layer.
        """
        lengths = [s.context for s in self.steps] + [g.length for g in self.generations]
        for length in (*lengths, *self.refreshes):
            if length > config.max_length:
                raise ConfigError(
                    f"{length} positions are more than the model's {config.max_length}; use a "
                    f"shorter --context, --generation or --refresh"
                )
        skipped = [g.skip_layer_k for g in self.generations if g.skip_layer_k]
        for layer in skipped:
            if not 2 <= layer <= config.num_layers:
                raise ConfigError(
                    f"--generation has a skip before layer {layer}, must be between 2 and "
                    f"{config.num_layers}"
                )
        for layer in self.layers if "skip" in self.sections else ():
            if not 2 <= layer <= config.num_layers:
                raise ConfigError(
                    f"--skip-layer-k has {layer}, must be between 2 and {config.num_layers}"
                )


def parse_generation(text: str) -> Generation:
    """Parse ``1000+256/256x8@64~18:0.25``; without its parts batch 1, block 32 and no skip.

    Raises:
        ConfigError: it is no generation, or its schedule does not fit.
    """
    match = _NAME.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"--generation has {shown(text)}, must be PROMPT+NEW/FORWARDS, then xBATCH and @BLOCK "
            f"if they are not 1 and {BLOCK}, and ~K:SHARE for a skip after which that share of the "
            f"rows goes on; like 1000+256/256x8@64~18:0.25"
        )
    prompt, new, forwards = map(int, match.groups()[:3])
    return Generation(
        prompt,
        new,
        forwards,
        batch=int(match[4] or 1),
        block=int(match[5] or BLOCK),
        skip_layer_k=int(match[6] or 0),
        going=float(match[7] or 1),
    )
