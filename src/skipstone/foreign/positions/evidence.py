"""What goes into a finding: numbers, positions, and the line of code that did it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.foreign.positions.calls import Clash
from skipstone.foreign.positions.position_map import PositionMap, ranked
from skipstone.foreign.shared.source import source_line
from skipstone.record import SCORE_OFFSET, Event

LOW_PRECISION = frozenset({torch.bfloat16, torch.float16})


@dataclass
class Findings:
    """What was found so far: one event for each kind and line."""

    forward: int = -1
    """The latest forward; -1 before the first."""
    found: dict[tuple[str, str], Event] = field(default_factory=dict)
    """By kind and source, in order of first occurrence."""
    tallies: dict[str, Tally] = field(default_factory=dict)
    """Similarities in low precision, by source."""
    one_apart: dict[tuple[str, str], Event] = field(default_factory=dict)
    """Tokens that met throughout with those of the next position: a mix-up, unless logits are those
    of the next token."""

    def add(
        self,
        kind: str,
        message: str,
        source: str,
        *,
        positions: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
        numbers: dict[str, float] | None = None,
    ) -> None:
        """Note something; at a line that had it before, only the count goes up."""
        self._add(self.found, kind, message, source, positions, numbers or {})

    def settle(self, *, shifted: bool) -> None:
        """Say whether the loop reads logits as those of the next token, at the end of a run."""
        for key, event in self.one_apart.items():
            if not shifted:
                self.found.setdefault(key, event)
            else:
                message = f"logits are read as those of the next token throughout: {event.message}"
                told = replace(event, kind=SCORE_OFFSET, message=message)
                self.found.setdefault((SCORE_OFFSET, event.source), told)
        self.one_apart.clear()

    def _add(
        self,
        found: dict[tuple[str, str], Event],
        kind: str,
        message: str,
        source: str,
        positions: tuple[tuple[int, ...], tuple[int, ...]],
        numbers: dict[str, float],
    ) -> None:
        known = found.get((kind, source))
        found[kind, source] = Event(
            kind=kind,
            message=known.message if known else message,
            source=source,
            forward=known.forward if known else self.forward,
            positions_a=known.positions_a if known else positions[0],
            positions_b=known.positions_b if known else positions[1],
            numbers=known.numbers if known else numbers,
            count=known.count + 1 if known else 1,
        )

    def misaligned(self, clash: Clash, position_map: PositionMap) -> None:
        """Rows of different positions met."""
        source = source_line()
        pairs = _pairs(clash)
        known = ("misaligned_rows", source) in self.found
        numbers = dict[str, float]() if known else similarities(clash, position_map)
        (a, b), more = pairs[0], len(pairs) - 1
        others = f" and {more} more such pairs" if more else ""
        message = f"{clash.name} takes the row of position {a} with that of position {b}{others}"
        if "similarity_wrong" in numbers:
            message += f"; their similarity is {numbers['similarity_wrong']:.6f}"
        if "similarity_right" in numbers:
            message += f", at equal positions it is {numbers['similarity_right']:.6f}"
        positions = (tuple(a for a, _ in pairs), tuple(b for _, b in pairs))
        found = self.one_apart if _one_apart(clash, pairs) else self.found
        self._add(found, "misaligned_rows", message, source, positions, numbers)

    def low_precision(self, name: str, a: Tensor, b: Tensor, dim: int, computed: Tensor) -> None:
        """A similarity was computed in a type that cannot tell values near 1 apart."""
        kind, source = "low_precision_similarity", source_line()
        coarse = a.dtype if a.dtype in LOW_PRECISION else b.dtype
        tally = self.tallies.setdefault(source, Tally(name, coarse))
        tally.take(computed, F.cosine_similarity(a.float(), b.float(), dim=dim))
        self.add(kind, "", source)
        event = self.found[kind, source]
        self.found[kind, source] = Event(
            kind, tally.message, source, event.forward, numbers=tally.numbers, count=event.count
        )


@dataclass
class Tally:
    """Similarities that one line computed in low precision, beside the same in float32."""

    name: str
    dtype: torch.dtype
    pairs: int = 0
    differing: int = 0
    """Pairs whose value is not even the exact one rounded to the type."""
    largest_error: float = 0.0
    computed: float = float("nan")
    """Of the first pair that differs, or of the first pair."""
    exact: float = float("nan")
    """Of the same pair, in float32."""

    def take(self, computed: Tensor, exact: Tensor) -> None:
        """Compare more pairs."""
        if computed.numel() == 0 or computed.shape != exact.shape:
            return
        value, true = computed.flatten().float(), exact.flatten()
        differs = value != true.to(self.dtype).float()
        shown = int(differs.int().argmax())
        if self.pairs == 0 or (self.differing == 0 and bool(differs.any())):
            self.computed, self.exact = float(value[shown]), float(true[shown])
        self.pairs += value.numel()
        self.differing += int(differs.sum())
        self.largest_error = max(self.largest_error, float((value - true).abs().max()))

    @property
    def numbers(self) -> dict[str, float]:
        """For the event."""
        return {
            "computed": self.computed,
            "float32": self.exact,
            "grid_step": torch.finfo(self.dtype).eps / 2,
            "largest_error": self.largest_error,
            "pairs": float(self.pairs),
            "share_differing": self.differing / max(1, self.pairs),
        }

    @property
    def message(self) -> str:
        """One line."""
        name = str(self.dtype).removeprefix("torch.")
        step = torch.finfo(self.dtype).eps / 2
        return (
            f"{self.name} in {name}, which below 1 has steps of {step:.6f}: it gave "
            f"{self.computed:.6f} where float32 gives {self.exact:.6f}; {self.differing} of "
            f"{self.pairs} values are not even the exact ones rounded"
        )


def _pairs(clash: Clash) -> list[tuple[int, int]]:
    """The different positions that met, in order, each pair once."""
    a, b = (
        positions.expand(clash.where.shape)[clash.where].tolist()
        for positions in (clash.positions_a, clash.positions_b)
    )
    return list(dict.fromkeys(zip(a, b, strict=True)))


def _one_apart(clash: Clash, pairs: list[tuple[int, int]]) -> bool:
    """Whether all that met are tokens, or what is said of them, of neighbours on one side."""
    a, b = clash.positions_a, clash.positions_b
    everywhere = torch.equal((a >= 0) & (b >= 0), clash.where)
    apart = {p - q for p, q in pairs}
    vectors = _are_rows(clash, clash.where.ndim)
    return everywhere and not vectors and (apart == {1} or apart == {-1})


def similarities(clash: Clash, position_map: PositionMap) -> dict[str, float]:
    """The similarity of the first two rows that met wrongly, and of the right ones.

    The right one is missing if no tensor that is still alive has the row.
    """
    rank = clash.where.ndim
    if clash.written or not _are_rows(clash, rank):
        return {}
    at = clash.where.nonzero()[0].tolist()[:-1]
    a, b = _row(clash.a, at, rank), _row(clash.b, at, rank)
    if a.shape != b.shape:
        return {}
    computed = clash.computed
    wrong = cosine(a, b) if computed is None else float(computed[_index(computed, at)])
    found = {"similarity_wrong": wrong}
    index = tuple(at)
    place_a, place_b = (
        int(positions.expand(clash.where.shape)[(*index, 0)])
        for positions in (clash.positions_a, clash.positions_b)
    )
    for tensor, position, other in ((clash.a, place_b, b), (clash.b, place_a, a)):
        row = row_at(position_map, tensor, position)
        if row is not None and row.shape == other.shape:
            return found | {"similarity_right": cosine(row, other)}
    return found


def _are_rows(clash: Clash, rank: int) -> bool:
    """Whether the positions belong to vectors along the last dimension."""
    vectors = (clash.a, clash.b)
    return (
        rank > 0
        and clash.where.shape[-1] == 1
        and all(t.is_floating_point() and t.ndim and t.shape[-1] > 1 for t in vectors)
    )


def _row(tensor: Tensor, at: list[int], rank: int) -> Tensor:
    """The vector of a tensor at an index over all dimensions but the last."""
    tensor = tensor.detach().view((1,) * (rank - tensor.ndim) + tuple(tensor.shape))
    return tensor[_index(tensor, at)]


def _index(tensor: Tensor, at: list[int]) -> tuple[int, ...]:
    return tuple(i if n > 1 else 0 for i, n in zip(at, tensor.shape, strict=False))


def row_at(position_map: PositionMap, tensor: Tensor, position: int) -> Tensor | None:
    """The row of a position in a tensor, or in the larger one it was cut from.

    None if there is no such row, or if more dimensions than that of the positions would have to be
    chosen.
    """
    base = position_map.base(tensor)
    tag = position_map.get(base)
    if tag is None or base.ndim == 0:
        return None
    positions = ranked(tag.positions, base.ndim)
    sizes = list(zip(positions.shape, base.shape, strict=True))
    found = (positions == position).nonzero()
    if positions.shape[-1] > 1 or found.shape[0] != 1 or any(p == 1 < n for p, n in sizes[:-1]):
        return None
    return base.detach()[tuple(found[0].tolist()[:-1])]


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two vectors in float32."""
    return float(F.cosine_similarity(a.float(), b.float(), dim=-1))
