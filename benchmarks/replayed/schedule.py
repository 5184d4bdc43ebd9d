"""What policies answered in each step, in shares that fit other lengths and depths.

A block is as long here as there, so what is said of its positions is kept position by position. Of
what lies beside it, the share is kept: of the prompt, of what is decoded left of the block, and of
what lies right of it.

Shape letters: N positions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skipstone.errors import ConfigError
from skipstone.request_step import RequestStep

_PLACES = 3
"""Decimal places of a share."""


@dataclass(frozen=True)
class RowShares:
    """Which positions of a request were meant, whatever its lengths."""

    prompt: float
    """Share of those of the prompt, 0 to 1."""
    done: float
    """Share of those between the prompt and the block."""
    block: frozenset[int]
    """Those of the block, counted from its start."""
    later: float
    """Share of those right of the block."""

    @classmethod
    def of(cls, position_N: np.ndarray, meant_N: np.ndarray, at: RequestStep) -> RowShares:
        """Of the positions that there were to choose from, int64, which were meant, bool."""
        region_N = _regions(position_N, at)
        prompt = _share(meant_N[region_N == 0], 1.0)
        done, later = (_share(meant_N[region_N == region], prompt) for region in (1, 3))
        own = position_N[meant_N & (region_N == 2)] - at.start
        return cls(prompt, done, frozenset(own.tolist()), later)

    def among(self, position_N: np.ndarray, at: RequestStep) -> np.ndarray:
        """Which of other positions are meant: bool [N]; those beside the block lie evenly."""
        region_N = _regions(position_N, at)
        meant_N = (region_N == 2) & np.isin(position_N - at.start, list(self.block))
        for region, share in ((0, self.prompt), (1, self.done), (3, self.later)):
            there = np.flatnonzero(region_N == region)
            count = round(share * there.size)
            meant_N[there[(np.arange(count) * there.size) // max(1, count)]] = True
        return meant_N

    def with_block(self, offsets: frozenset[int]) -> RowShares:
        """With these positions of the block too."""
        return RowShares(self.prompt, self.done, self.block | offsets, self.later)

    def as_json(self) -> list[Any]:
        """As it stands in a file: the block's positions are the bits of a number."""
        bits = sum(1 << offset for offset in self.block)
        return [self.prompt, self.done, self.later, f"{bits:x}"]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> RowShares:
        """What ``as_json`` gave."""
        prompt, done, later, text = value
        bits = int(text, 16)
        block = frozenset(i for i in range(bits.bit_length()) if bits >> i & 1)
        return cls(prompt, done, block, later)


@dataclass
class StepAnswers:
    """What the policies of a request answered in one step."""

    commits: tuple[int, ...] = ()
    """Positions of the block that were written or became masks again, counted from its start."""
    refresh: bool = False
    """Whether the cache refreshed the request; only where ``rows`` is there."""
    rows: RowShares | None = None
    """Rows that entered the first layer, of all; None: they follow from the canvas."""
    named: dict[int, RowShares] = field(default_factory=dict)
    """By layer: the rows that went on, of all, where a cache named them anew before it."""
    chosen: dict[int, RowShares] = field(default_factory=dict)
    """By layer: the rows that it computed, or its MLP, of those that came, where a cache chose."""
    kept: dict[int, RowShares] = field(default_factory=dict)
    """By layer: the rows that went on after it, of those that came, where a skip judged them."""

    def as_json(self) -> dict[str, Any]:
        """As it stands in a file, without what is empty."""
        found: dict[str, Any] = {"commits": list(self.commits)}
        if self.rows is not None:
            found |= {"refresh": self.refresh, "rows": self.rows.as_json()}
        for name in ("named", "chosen", "kept"):
            if layers := getattr(self, name):
                found[name] = {str(layer): one.as_json() for layer, one in layers.items()}
        return found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StepAnswers:
        """What ``as_json`` gave."""
        rows = value.get("rows")
        layers = (
            {int(n): RowShares.from_json(one) for n, one in value.get(name, {}).items()}
            for name in ("named", "chosen", "kept")
        )
        shares = None if rows is None else RowShares.from_json(rows)
        return cls(tuple(value["commits"]), value.get("refresh", False), shares, *layers)


BlockAnswers = tuple[StepAnswers, ...]
"""The steps of one block."""


@dataclass(frozen=True)
class Schedule:
    """How one setting decoded blocks that hold text."""

    settings: dict[str, str]
    """By name, as texts."""
    first: tuple[BlockAnswers, ...]
    """First blocks of answers."""
    later: tuple[BlockAnswers, ...]
    """Others; may be none."""

    @property
    def steps_per_block(self) -> float:
        """Mean."""
        blocks = (*self.first, *self.later)
        return sum(map(len, blocks)) / len(blocks)

    def answer(self, index: int, blocks: int) -> tuple[BlockAnswers, ...]:
        """An answer of so many blocks: a first one, then others in turn; another ``index``, others.

        Later ones are taken from first ones too: text is mostly there. What is computed as such a
        block begins is then the policy's own affair, as a request has no second beginning.
        """
        later = (*self.later, *(_going_on(block) for block in self.first))
        first = self.first[index % len(self.first)]
        begin = index * (blocks - 1)
        return (first, *(later[(begin + i) % len(later)] for i in range(blocks - 1)))

    def as_json(self) -> dict[str, Any]:
        """As it stands in a file."""
        sides = {"first": self.first, "later": self.later}
        return {"settings": self.settings} | {
            name: [[step.as_json() for step in block] for block in side]
            for name, side in sides.items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Schedule:
        """What ``as_json`` gave."""
        first, later = (
            tuple(tuple(map(StepAnswers.from_json, block)) for block in value[name])
            for name in ("first", "later")
        )
        return cls(dict(value["settings"]), first, later)


@dataclass(frozen=True)
class Recording:
    """The schedules of many settings by one model."""

    facts: dict[str, Any]
    """How they came about: command, model, date, prompts."""
    num_layers: int
    """Of the model."""
    block_length: int
    schedules: dict[str, Schedule]
    """By the name of the setting."""

    def as_text(self) -> str:
        """The file."""
        schedules = {name: one.as_json() for name, one in self.schedules.items()}
        whole = {
            **self.facts,
            "num_layers": self.num_layers,
            "block_length": self.block_length,
            "schedules": schedules,
        }
        lines = json.dumps(whole, separators=(",", ":"))
        # A line for each setting, so that a change of one shows as such.
        for name in schedules:
            lines = lines.replace(f"{json.dumps(name)}:{{", f"\n{json.dumps(name)}:{{", 1)
        return lines + "\n"

    @classmethod
    def read(cls, path: Path) -> Recording:
        """What ``as_text`` gave, from a file.

        Raises:
            ConfigError: it is no such file.
        """
        try:
            whole = json.loads(path.read_text(encoding="utf-8"))
            found = whole.pop("schedules")
            num_layers, block_length = whole.pop("num_layers"), whole.pop("block_length")
            schedules = {name: Schedule.from_json(one) for name, one in found.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path} is no file of schedules ({error!r}); `policy_times record` writes one"
            ) from None
        return cls(whole, num_layers, block_length, schedules)


def _going_on(block: BlockAnswers) -> BlockAnswers:
    """A first block as a later one."""
    return (StepAnswers(block[0].commits), *block[1:])


def _regions(position_N: np.ndarray, at: RequestStep) -> np.ndarray:
    """0 for the prompt, 1 for what is decoded left of the block, 2 for it, 3 for what is right."""
    return np.searchsorted([at.prompt_length, at.start, at.stop], position_N, side="right")


def _share(meant_N: np.ndarray, otherwise: float) -> float:
    """Of positions that were meant; where there were none, as elsewhere."""
    return round(float(meant_N.mean()), _PLACES) if meant_N.size else otherwise
