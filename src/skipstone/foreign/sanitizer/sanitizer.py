"""What the sanitizer does at each call: ids get their positions, caches are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from skipstone.foreign.positions.calls import tensors_in
from skipstone.foreign.positions.evidence import Findings
from skipstone.foreign.positions.follow import Follower
from skipstone.foreign.positions.position_map import Tag
from skipstone.foreign.rows.locate import Located
from skipstone.foreign.rows.placed import Placed
from skipstone.foreign.rows.stale_ids import given_old
from skipstone.foreign.sanitizer.next_token import NextToken
from skipstone.foreign.sanitizer.watch import CacheWatch
from skipstone.foreign.shared.calls import Call
from skipstone.foreign.shared.source import source_line

_OUTPUTS = ("logits", "hidden_states", "last_hidden_state")


class Sanitizer:
    """Gets every call of a model; its follower gets every operation within and between them."""

    def __init__(self) -> None:
        """No call yet."""
        self.findings = Findings()
        self.follower = Follower(self.findings)
        self.lost = 0
        """Forwards through which the rows could not be followed from the ids to the outputs."""
        self.next_token = NextToken()
        """Whether logits are those of the next token."""
        self._caches = CacheWatch(self.findings)
        self._located: Located | None = None
        self._positions: Tensor | None = None
        self._line = ""
        """That made the call before."""
        self._shape: tuple[int, ...] = ()

    def before(self, call: Call | None, located: Located | None) -> None:
        """The ids of a call have got their positions."""
        if located is not None and located.was_stale is not None:
            message, positions = given_old(located.was_stale)
            self.findings.add("ids_behind", message, self._line, positions=(positions, ()))
        self.next_token.called(located)
        self._located = located
        self._line = source_line()
        self.findings.forward += 1
        self._positions = None
        given = None if call is None else call.given
        tag = self.follower.position_map.get(given)
        if call is None or given is None or tag is None:
            return
        self._positions = tag.positions if given is call.ids else tag.positions.squeeze(-1)
        self._shape = tuple(given.shape[: self._positions.ndim])
        self._caches.called(call, self._positions)
        if located is not None and located.said is not None:
            stated = None if located.said.source == "cache_length" else call.stated
            name = "the length of the cache" if stated is None else stated.name
            self._contradicted(located.placed, located.said, name)

    def _contradicted(self, true: Placed, said: Placed, name: str) -> None:
        """The ids come from other places of the canvas than an argument, or the cache, says."""
        differ = true.positions_BN != said.positions_BN
        a, b = (tuple(p.positions_BN[differ].tolist()) for p in (true, said))
        self.findings.add(
            "misaligned_rows",
            f"the ids stand at position {a[0]} and following in the canvas, and {name} says {b[0]} "
            f"and following",
            source_line(),
            positions=(a, b),
        )

    def after(self, out: object) -> None:
        """Row i of the outputs is row i of the ids, even if the way between was not followed."""
        self._caches.returned(out)
        logits = next(_logits(out), None)
        if logits is not None and self._located is not None:
            self.next_token.returned(logits, self._located)
        if self._positions is None:
            return
        lost = False
        for tensor in _outputs(out):
            rank = self._positions.ndim
            if tensor.shape[:rank] != self._shape or tensor.ndim <= rank:
                continue
            if self.follower.position_map.get(tensor) is None:
                lost = True
                positions = self._positions.view(
                    *self._positions.shape, *(1,) * (tensor.ndim - rank)
                )
                self.follower.position_map.set(tensor, Tag(positions))
        self.lost += lost


def _logits(out: object) -> Iterator[Tensor]:
    """Logits [C, N, V] in what a model returned."""
    found: Any = out if isinstance(out, Tensor) else _field(out, "logits")
    yield from (x for x in tensors_in((found,)) if x.ndim == 3)


def _outputs(out: object) -> Iterator[Tensor]:
    """Logits and states in what a model returned."""
    if isinstance(out, Tensor):
        yield out
        return
    for name in _OUTPUTS:
        yield from tensors_in((_field(out, name),))


def _field(out: object, name: str) -> object:
    return out.get(name) if isinstance(out, Mapping) else getattr(out, name, None)
