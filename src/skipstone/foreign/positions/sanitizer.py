"""What the sanitizer does at each call: ids get their positions, caches are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from skipstone.foreign.positions.calls import tensors_in
from skipstone.foreign.positions.evidence import Findings
from skipstone.foreign.positions.follow import Follower
from skipstone.foreign.positions.places import Ledger, Tag, compressed, ranked
from skipstone.foreign.positions.watch import CacheWatch, CanvasWatch
from skipstone.foreign.shared.calls import Call
from skipstone.foreign.shared.source import source_line

_OUTPUTS = ("logits", "hidden_states", "last_hidden_state")


class Sanitizer:
    """Hears of every call of a model; between and inside of them its follower hears the rest."""

    def __init__(self, mask_id: int | None = None) -> None:
        """No call yet; masks that are left are looked for if their id is given."""
        self.findings = Findings()
        self.follower = Follower(self.findings)
        self.canvases = CanvasWatch(self.findings, mask_id, self.follower.ledger)
        self.lost = 0
        """Forwards through which the rows could not be followed from the ids to the outputs."""
        self._caches = CacheWatch(self.findings)
        self._places: Tensor | None = None
        self._shape: tuple[int, ...] = ()

    def before(self, call: Call | None) -> None:
        """The ids of a call get their positions."""
        self.findings.forward += 1
        self._places = None
        if call is not None and call.ids is not None:
            self._begin(call, call.ids)

    def _begin(self, call: Call, ids: Tensor) -> None:
        ledger = self.follower.ledger
        known = ledger.get(ids)
        places, clash = places_of(call, ids, ledger)
        if places is None:
            return
        if clash is not None and known is not None and call.stated is not None:
            self._contradicted(known.places, call, clash)
        run = None if known is None else known.canvas
        if not call.cache and ids.ndim == 2:
            run = self.canvases.called(ids, run)
        ledger.set(ids, Tag(places, None if known is None else known.base, run))
        self._caches.called(call, places)
        self._places, self._shape = places, ids.shape

    def _contradicted(self, carried: Tensor, call: Call, clash: Tensor) -> None:
        """The ids come from other places of the canvas than an argument says."""
        assert call.stated is not None
        stated = call.stated.positions_BN
        a, b = (p.expand(clash.shape)[clash].tolist() for p in (carried, stated))
        self.findings.add(
            "misaligned_rows",
            f"the ids stand at position {a[0]} and following in the canvas, and {call.stated.name} "
            f"says {b[0]} and following",
            source_line(),
            positions=(tuple(a), tuple(b)),
        )

    def after(self, out: object) -> None:
        """Row i of the outputs is row i of the ids, even if the way between was not followed."""
        self._caches.returned(out)
        if self._places is None:
            return
        lost = False
        for tensor in _outputs(out):
            rank = self._places.ndim
            if tensor.shape[:rank] != self._shape or tensor.ndim <= rank:
                continue
            if self.follower.ledger.get(tensor) is None:
                lost = True
                places = self._places.view(*self._places.shape, *(1,) * (tensor.ndim - rank))
                self.follower.ledger.set(tensor, Tag(places))
        self.lost += lost


def places_of(call: Call, ids: Tensor, ledger: Ledger) -> tuple[Tensor | None, Tensor | None]:
    """Places of the rows of a call, and where the rows contradict what an argument states.

    What the ids are known to be counts first: a slice of a canvas is that slice, whatever is said
    of it. Then comes the argument, then the length of the cache, then counting from 0.

    Returns:
        The places, and a bool tensor in their shape that is True at contradictions, or None.
    """
    tag = ledger.get(ids)
    carried = None if tag is None else ranked(tag.places, ids.ndim)
    told, said = None, call.stated
    sure = said is not None and (said.sure or carried is None)
    if said is not None and sure:
        positions = said.positions_BN[0] if ids.ndim == 1 else said.positions_BN
        told = compressed(positions.to(torch.int32).expand(ids.shape))
    elif call.cached or not call.cache:
        length = ids.shape[-1]
        counted = torch.arange(call.cached, call.cached + length, dtype=torch.int32)
        told = compressed(counted.expand(ids.shape))
    if carried is None or told is None:
        return (told if carried is None else carried), None
    known = (carried >= 0) & torch.ones_like(told, dtype=torch.bool)
    clash = known & (carried != told)
    checked = said is not None and said.sure and not call.padded and bool(clash.any())
    return torch.where(known, carried, told), clash if checked else None


def _outputs(out: object) -> Iterator[Tensor]:
    """Logits and states in what a model returned."""
    if isinstance(out, Tensor):
        yield out
        return
    for name in _OUTPUTS:
        found: Any = out.get(name) if isinstance(out, Mapping) else getattr(out, name, None)
        yield from tensors_in((found,))
