"""How much memory requests may take, by cells: what was asked for, and what there is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import torch

from skipstone.errors import ConfigError, NoRoomError
from skipstone.memory.ranges import GRAIN, rounded
from skipstone.quoting import shown

# Of what is free on a card once the weights are there. States and logits of a step need some too,
# and so does the next engine.
_USUAL_SHARE = 0.5
_UNITS = ("", "k", "m", "g", "t")
_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b\s*", re.IGNORECASE)


@dataclass(frozen=True)
class MemoryLimit:
    """A share of what is free, or bytes; or neither: half of a card, all that a CPU gives."""

    asked: float | str | None = None
    share: float | None = None
    bytes: int | None = None

    @classmethod
    def of(cls, asked: object) -> MemoryLimit:
        """Read what a user gave.

        Raises:
            ConfigError: it is neither a share nor a number of bytes.
        """
        if asked is None:
            return cls()
        if isinstance(asked, str) and (found := _BYTES.fullmatch(asked)):
            number, unit, binary = found.groups()
            factor = (1024 if binary else 1000) ** _UNITS.index(unit.lower())
            return cls(asked, bytes=int(float(number) * factor))
        if isinstance(asked, int | float) and not isinstance(asked, bool) and 0 < asked <= 1:
            return cls(float(asked), share=float(asked))
        raise ConfigError(
            f"memory is {shown(asked)}, must be a share of the free memory, above 0 and at most 1, "
            f"or bytes like '40GB'"
        )

    def on(self, device: torch.device) -> int | None:
        """Bytes that may be taken at present; None: whatever is needed.

        Raises:
            NoRoomError: more is asked for than is free.
        """
        if self.asked is None and device.type != "cuda":
            return None
        free = _free(device)
        if self.bytes is not None and self.bytes > free:
            raise NoRoomError(
                f"memory={self.asked!r} is more than there is on {device}: {spelled(free)} are "
                f"free; ask for less"
            )
        share = _USUAL_SHARE if self.share is None else self.share
        return int(free * share) if self.bytes is None else self.bytes

    def check(self, length: int, kv: int, beside: int, given: int | None, where: str) -> None:
        """Refuse a request that could never be admitted.

        Args:
            length: its positions.
            kv: bytes of its keys and values.
            beside: bytes of what its policies keep of it.
            given: bytes that may be taken; None: whatever is needed.
            where: names it in the message.

        Raises:
            NoRoomError: it needs more than all of them.
        """
        if given is not None and kv + beside > given:
            asked = "" if self.asked is None else f" (memory={self.asked!r})"
            what = "keys and values, and what its policies keep beside them," if beside else ""
            raise NoRoomError(
                f"{where} has {length} positions with what is to be decoded: "
                f"{what or 'keys and values'} take {spelled(kv + beside)}, and there is room for "
                f"{spelled(given)}{asked}; shorten it, or give more memory"
            )


def cells_in(given: int | None, each: int, most: int) -> int:
    """Positions for which there is room.

    Args:
        given: bytes that may be taken; None: whatever is needed.
        each: bytes of one.
        most: more are never needed.
    """
    if given is None:
        return rounded(most)
    return min(max(0, given) // each // GRAIN * GRAIN, rounded(most))


def _free(device: torch.device) -> int:
    """Bytes that could be allocated."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What PyTorch holds and nobody uses.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + held
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def spelled(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
