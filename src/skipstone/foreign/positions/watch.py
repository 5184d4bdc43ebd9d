"""What is watched beside positions: caches that are overwritten, masks that are left.

Shape letters: B batch, L canvas length.
"""

from __future__ import annotations

import weakref
import zlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from skipstone.foreign.positions.evidence import Findings
from skipstone.foreign.positions.roots import Inputs
from skipstone.foreign.shared.source import source_line


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
    """

    def __init__(self, findings: Findings) -> None:
        """Nothing was called yet."""
        self._findings = findings
        self._uses = dict[tuple[int, int], list[_Use]]()

    def called(self, inputs: Inputs, places: Tensor | None) -> None:
        """A call begins with this cache."""
        if not inputs.cache:
            return
        step = (_fingerprint(inputs.ids), 0 if places is None else _fingerprint(places))
        before = self._uses.setdefault(step, [])
        now = [_fingerprint(leaf) for leaf in inputs.cache]
        gone = [use for use in before if _overwritten(use, inputs.cache, now)]
        if gone:
            self._tell(gone, inputs, places)
        before += [
            _Use(self._findings.forward, weakref.ref(leaf), fingerprint)
            for leaf, fingerprint in zip(inputs.cache, now, strict=True)
        ]

    def _tell(self, gone: list[_Use], inputs: Inputs, places: Tensor | None) -> None:
        first = gone[0].forward
        changed = sum(use.forward == first for use in gone)
        rows = () if places is None else tuple(places.flatten().tolist())
        self._findings.add(
            "cache_overwritten",
            f"forward {self._findings.forward} runs the step of forward {first} again, but not "
            f"from the same state: {changed} of {len(inputs.cache)} cache tensors were overwritten "
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


def _fingerprint(tensor: Tensor) -> int:
    """Of the content, which unlike the version counter is there in inference mode as well."""
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return zlib.crc32(raw.numpy().tobytes())


@dataclass(eq=False)
class _Run:
    """A run as far as its canvas is known."""

    ids: Tensor
    """The newest canvas, a copy on the host."""
    source: str
    """The line that made it."""
    forward: int
    """The latest forward before that."""
    copies: list[weakref.ref[Tensor]] = field(default_factory=list)
    """Tensors as large as the canvas that hold it, or held it."""


@dataclass(eq=False)
class CanvasWatch:
    """Follows the canvas of each run to its last state."""

    findings: Findings
    mask_id: int | None
    runs: list[_Run] = field(default_factory=list)

    def called(self, ids: Tensor, run: int | None) -> int | None:
        """A call computes a whole canvas; says which run it belongs to."""
        if self.mask_id is None:
            return None
        if run is None:
            run = self._continued(ids)
        if run is None:
            run = len(self.runs)
            self.runs.append(_Run(_copy(ids), "", -1))
        self.holds(ids, run)
        self.changed(ids, run)
        return run

    def holds(self, ids: Tensor, run: int) -> None:
        """A tensor comes from the canvas of a run."""
        state = self.runs[run]
        if _is_whole(ids, state.ids):
            alive = [ref for ref in state.copies if (t := ref()) is not None and t is not ids]
            state.copies = [*alive, weakref.ref(ids)]

    def changed(self, ids: Tensor, run: int) -> None:
        """A tensor got new ids; if it is a whole canvas, it is the newest."""
        state = self.runs[run]
        if _is_whole(ids, state.ids):
            state.ids, state.source = _copy(ids), source_line()
            state.forward = self.findings.forward

    def wrote(self, ids: Tensor) -> None:
        """A tensor was changed in place; it may be a part of a canvas."""
        for i, state in enumerate(self.runs):
            for canvas in [ref() for ref in state.copies]:
                if canvas is not None and canvas is not ids and _share(canvas, ids):
                    self.changed(canvas, i)

    def end(self) -> None:
        """Tell of every run that ends with masks."""
        if self.mask_id is None:
            return
        for state in self.runs:
            masked = state.ids.eq(self.mask_id)
            if not bool(masked.any()):
                continue
            positions = tuple(masked.nonzero()[:, -1].tolist())
            self.findings.add(
                "masks_left",
                f"{len(positions)} positions of the canvas are still masks at the end; text that "
                f"leaves out special tokens does not show them",
                state.source,
                positions=(positions, ()),
                numbers={"masks_left": float(len(positions)), "forward": float(state.forward)},
            )

    def _continued(self, ids: Tensor) -> int | None:
        """The run whose tokens these ids keep, if they came by a way that is not followed."""
        if self.mask_id is None:
            return None
        new = _copy(ids)
        for i in reversed(range(len(self.runs))):
            old = self.runs[i].ids
            masked = old.eq(self.mask_id)
            kept = old.shape == new.shape and bool((new.eq(old) | masked).all())
            if kept and bool(masked.any()):
                return i
        return None


def _copy(ids: Tensor) -> Tensor:
    return ids.detach().cpu().clone()


def _is_whole(ids: Tensor, canvas: Tensor) -> bool:
    """Whether a tensor is a whole canvas; loops may make the canvas longer as they go."""
    same_batch = ids.shape[:-1] == canvas.shape[:-1] and ids.ndim > 0
    return same_batch and ids.shape[-1] >= canvas.shape[-1]


def _share(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
