"""What is watched beside positions: caches that are overwritten, masks that are left.

Shape letters: B batch, L canvas length.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skipstone.foreign.positions.evidence import Findings
from skipstone.foreign.positions.follow import whole_canvas
from skipstone.foreign.positions.places import Ledger
from skipstone.foreign.shared.calls import Call, host_ids
from skipstone.foreign.shared.canvases import Canvases, newest_canvas
from skipstone.foreign.shared.functions import Operation
from skipstone.foreign.shared.source import source_line

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# The golden ratio of 64 bits: neighbours get numbers that are far apart.
_ODD = 0x9E3779B97F4A7C15 - (1 << 64)


@dataclass(frozen=True, eq=False)
class _Use:
    """A cache as it was when a call began."""

    forward: int
    tensor: weakref.ref[Tensor]
    fingerprint: int


class CacheWatch:
    """Knows what each call began with; tells when one begins like another and finds its cache gone.

    A loop overwrites its cache as well, but comes back with other ids. The same ids at the same
    positions mean that the same step is run again, and it does not start where it started before.
    Two things are no finding. A step that commits nothing is followed by itself, with the cache as
    it left it: nothing that was passed has changed but the cache. And an edit may lead back to a
    canvas that was there before: the loop then goes on with the cache that it has, and does not
    take up one that it kept aside.
    """

    def __init__(self, findings: Findings) -> None:
        """Nothing was called yet."""
        self._findings = findings
        self._uses = dict[tuple[int, int], list[_Use]]()
        self._last = dict[str, int | float | str]()
        self._passed_on = set[int]()

    def called(self, call: Call, places: Tensor | None) -> None:
        """A call begins with this cache."""
        assert call.ids is not None
        plain = {name: v for name, v in call.arguments.items() if isinstance(v, int | float | str)}
        holders = {id(holder) for holder in call.holders}
        goes_on = plain == self._last and (not self._passed_on or holders <= self._passed_on)
        self._last, self._passed_on = plain, holders
        if not call.cache:
            return
        ids, *now = _fingerprints([call.ids, *call.cache])
        step = (ids, 0 if places is None else _fingerprints([places])[0])
        before = self._uses.setdefault(step, [])
        gone = [use for use in before if _overwritten(use, call.cache, now)]
        if gone and not goes_on:
            self._tell(gone, call, places)
        before += [
            _Use(self._findings.forward, weakref.ref(leaf), fingerprint)
            for leaf, fingerprint in zip(call.cache, now, strict=True)
        ]

    def returned(self, output: object) -> None:
        """A call is done: a loop goes on with what it passed, or with what it got back."""
        parts = output.values() if isinstance(output, Mapping) else ()
        if isinstance(output, (tuple, list)):
            parts = output
        elif hasattr(output, "__dict__"):
            parts = vars(output).values()
        self._passed_on |= {id(part) for part in parts}

    def _tell(self, gone: list[_Use], call: Call, places: Tensor | None) -> None:
        first = gone[0].forward
        changed = sum(use.forward == first for use in gone)
        rows = () if places is None else tuple(places.flatten().tolist())
        self._findings.add(
            "cache_overwritten",
            f"forward {self._findings.forward} runs the step of forward {first} again, but not "
            f"from the same state: {changed} of {len(call.cache)} cache tensors were overwritten "
            f"in place since forward {first} began; give each call its own copy of the cache",
            source_line(),
            positions=(rows, rows),
            numbers={"first_forward": float(first), "tensors_overwritten": float(changed)},
        )


def _overwritten(use: _Use, cache: list[Tensor], now: list[int]) -> bool:
    """Whether a tensor of this cache shares memory with what a call began with, but not content."""
    old = use.tensor()
    if old is None:
        return False
    place = old.untyped_storage().data_ptr()
    return any(
        leaf.untyped_storage().data_ptr() == place
        and leaf.shape == old.shape
        and leaf.storage_offset() == old.storage_offset()
        and fingerprint != use.fingerprint
        for leaf, fingerprint in zip(cache, now, strict=True)
    )


def _fingerprints(tensors: Sequence[Tensor]) -> list[int]:
    """Of contents, which unlike version counters are there in inference mode as well.

    They are summed up where the tensors are, and read together: a copy of every cache to the host
    at every call would take longer than the call.
    """
    if not tensors:
        return []
    device = tensors[0].device
    return torch.stack([_summed(tensor).to(device) for tensor in tensors]).tolist()


def _summed(tensor: Tensor) -> Tensor:
    """int64 []: the bits of all elements, each times an odd number of its own."""
    bits = tensor.detach().contiguous().flatten().view(_BITS[tensor.element_size()])
    odd = torch.arange(bits.numel(), device=bits.device).mul_(_ODD).bitwise_or_(1)
    return (bits * odd).sum()


@dataclass(eq=False)
class _Run:
    """A run as far as its canvas is known."""

    given_BL: np.ndarray
    """bool: what was no mask when it began."""
    called_BL: np.ndarray
    """int64: the canvas of the latest call over all of it."""
    held: weakref.ref[Tensor]
    """The tensor that held it."""
    source: str
    """The line of that call, or the one that made the last canvas."""
    forward: int
    last_BL: np.ndarray | None = None
    """The newest canvas after that, once the run is over."""


class CanvasWatch:
    """Follows the canvas of each run to its last state."""

    def __init__(self, findings: Findings, mask_id: int | None, ledger: Ledger) -> None:
        """No run yet; the ledger knows which ids come from which canvas."""
        self._findings, self._mask_id, self._ledger = findings, mask_id, ledger
        self._canvases = Canvases()
        self._runs = list[_Run]()
        self._now: int | None = None

    def heard(self, operation: Operation) -> None:
        """Keep what may be the next canvas."""
        self._canvases.heard(operation)

    def called(self, ids: Tensor, run: int | None) -> int | None:
        """A call computes a whole canvas; says which run it belongs to."""
        if self._mask_id is None:
            return run
        ids_BL = host_ids(ids)
        if run is None:
            run = self._continued(ids_BL)
        if run != self._now:
            self._settle()
        given_BL = ids_BL != self._mask_id if run is None else self._runs[run].given_BL
        state = _Run(given_BL, ids_BL, weakref.ref(ids), source_line(), self._findings.forward)
        if run is None:
            run = len(self._runs)
            self._runs.append(state)
        elif ids_BL.shape[1] >= self._runs[run].called_BL.shape[1]:
            self._runs[run] = state
        self._now = run
        self._canvases.expect(torch.Size(self._runs[run].called_BL.shape))
        return run

    def end(self) -> None:
        """Tell of every run that ends with masks."""
        self._settle()
        for state in self._runs:
            # Where the last canvas was not seen, nothing is claimed.
            left = () if state.last_BL is None else np.nonzero(state.last_BL == self._mask_id)[-1]
            positions = tuple(int(i) for i in left)
            if not positions:
                continue
            self._findings.add(
                "masks_left",
                f"{len(positions)} positions of the canvas are still masks at the end; text that "
                f"leaves out special tokens does not show them",
                state.source,
                positions=(positions, ()),
                numbers={"masks_left": float(len(positions)), "forward": float(state.forward)},
            )

    def _settle(self) -> None:
        """The run under way is over, or another goes on: find its newest canvas."""
        if self._now is None or self._mask_id is None:
            return
        run, state = self._now, self._runs[self._now]
        length = state.called_BL.shape[1]

        def descends(ids: Tensor) -> bool:
            tag = self._ledger.get(ids)
            return tag is not None and tag.canvas == run and whole_canvas(tag.places, length)

        seen, held = self._canvases.newest(), state.held()
        state.last_BL = newest_canvas(
            state.called_BL, held, seen, state.given_BL, self._mask_id, descends
        )

    def _continued(self, ids_BL: np.ndarray) -> int | None:
        """The run whose tokens these ids keep, if they came by a way that is not followed."""
        for i in reversed(range(len(self._runs))):
            old_BL = self._runs[i].called_BL
            masked_BL = old_BL == self._mask_id
            kept = old_BL.shape == ids_BL.shape and bool(((ids_BL == old_BL) | masked_BL).all())
            if kept and masked_BL.any():
                return i
        return None
