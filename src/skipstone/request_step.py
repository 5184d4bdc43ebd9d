"""The step that one request takes, as policies are told of it; without torch."""

from __future__ import annotations

from dataclasses import dataclass

from skipstone.blocks import Block
from skipstone.reach import FULL, Reach


@dataclass(frozen=True)
class RequestStep:
    """The step that one request takes."""

    slot: int
    """Its row of the batch."""
    sample: int
    """Which of the prompts it is."""
    prompt_length: int
    block: Block
    step: int
    """Step within the block, from 0; step 0 is the refresh of caches that have one."""
    step_budget: int
    """Steps that the fixed schedule plans for this block."""
    forward: int
    """Forwards that this request took part in before, over all of its blocks."""
    seed: int = 0
    """Of all that is drawn for this request."""
    reach: Reach = FULL
    """How far its rows see, and which positions they score."""
    block_length: int | None = None
    """Positions of a block that is not cut short; None: of this one."""
    opens_alone: bool = False
    """Whether the first step of a block commits its first mask and no other."""
    suffix: int | None = None
    """So many positions lie right of the block, at most, in this step; None: all there are."""
    whole_blocks: bool = False
    """Whether a stop id ends the request only where its block is decided."""
    settled: int = 0
    """Of a block-causal model: the K/V left of this position are those of final tokens."""
    base: int = 0
    """The cell of the K/V store in which its position 0 lies."""
    sees: int | None = None
    """Its rows see nothing from this offset on, nor are any computed there; None: they see all."""
    revises: bool = False
    """Whether committed tokens of the block are scored too, and may be replaced."""
    revokes: bool = False
    """Whether they are scored where they are not seen, and may become masks again."""
    post_step: int = 0
    """Which of the steps it is that find no mask in the block, from 1; 0 where there are some."""
    may_end: bool = True
    """Whether the block ends with this step if no mask is left, even if something is changed."""

    @property
    def steps_left(self) -> int:
        """Steps of the budget that are left, this one included; at least 1."""
        return max(1, self.step_budget - self.step)

    @property
    def clock(self) -> int:
        """Steps that came before it, if one token a step is committed: an early end adds its rest.

        It counts over the whole request.
        """
        return self.block.start + self.step

    @property
    def sees_more(self) -> bool:
        """Whether the block may see what was never computed."""
        in_part = self.sees is not None or self.suffix is not None
        return self.forward == 0 or (self.step == 0 and in_part)

    @property
    def start(self) -> int:
        """First position of the block."""
        return self.prompt_length + self.block.start

    @property
    def stop(self) -> int:
        """One past the last position of the block."""
        return self.prompt_length + self.block.stop
