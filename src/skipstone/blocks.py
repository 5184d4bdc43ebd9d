"""Blocks: what is decoded together, before what lies right of it is begun."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Block:
    """One block of the generation region; offsets count from the end of the prompt."""

    index: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of positions in this block."""
        return self.stop - self.start


def blocks(gen_length: int, block_length: int, before: int = 0) -> list[Block]:
    """Cut the generation region into blocks; the last one may be shorter.

    Args:
        gen_length: of the region.
        block_length: of a block.
        before: positions of the first block that lie left of the region.
    """
    edges = [0, *range(block_length - before % block_length, gen_length, block_length), gen_length]
    return [Block(i, *pair) for i, pair in enumerate(pairwise(edges))]
