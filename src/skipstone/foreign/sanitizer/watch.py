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
from skipstone.foreign.rows.finder import Finder
from skipstone.foreign.rows.locate import Located
from skipstone.foreign.shared.calls import Call
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

    def called(self, call: Call, positions: Tensor | None) -> None:
        """A call begins with this cache."""
        assert call.given is not None
        plain = {name: v for name, v in call.arguments.items() if isinstance(v, int | float | str)}
        holders = {id(holder) for holder in call.holders}
        goes_on = plain == self._last and (not self._passed_on or holders <= self._passed_on)
        self._last, self._passed_on = plain, holders
        if not call.cache:
            return
        ids, *now = _fingerprints([call.given, *call.cache])
        step = (ids, 0 if positions is None else _fingerprints([positions])[0])
        before = self._uses.setdefault(step, [])
        gone = [use for use in before if _overwritten(use, call.cache, now)]
        if gone and not goes_on:
            self._tell(gone, call, positions)
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

    def _tell(self, gone: list[_Use], call: Call, positions: Tensor | None) -> None:
        first = gone[0].forward
        changed = sum(use.forward == first for use in gone)
        rows = () if positions is None else tuple(positions.flatten().tolist())
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


class MaskWatch:
    """Tells of every run that ends with masks."""

    def __init__(self, findings: Findings, mask_id: int, finder: Finder) -> None:
        """No run yet; the finder knows the newest canvas of each."""
        self._findings, self._mask_id, self._finder = findings, mask_id, finder
        self._source, self._forward = "", -1

    def called(self, located: Located) -> None:
        """A call was located, and the finder does not know of it yet."""
        if located.anew:
            self.ended()
        self._source, self._forward = source_line(), self._findings.forward

    def ended(self) -> None:
        """The run under way is over. Where its last canvas was not seen, nothing is claimed."""
        last_BL = self._finder.newest()
        if last_BL is None:
            return
        positions = tuple(np.nonzero(last_BL == self._mask_id)[-1].tolist())
        if not positions:
            return
        self._findings.add(
            "masks_left",
            f"{len(positions)} positions of the canvas are still masks at the end; text that "
            f"leaves out special tokens does not show them",
            self._source,
            positions=(positions, ()),
            numbers={"masks_left": float(len(positions)), "forward": float(self._forward)},
        )
