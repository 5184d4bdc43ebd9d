"""Chooses what is hidden from the network, and how much each hidden token counts.

Half of the canvases are masked evenly over the whole answer region. The others look as they do in
the middle of block decoding: finished blocks, a half-done block, and blocks still fully masked.

Shape letters: B batch, L length, M masked positions of a batch, D width, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pebble.batches import Batch
from pebble.model import Pebble
from pebble.tokenizer import MASK, special_id

# A lower ratio would give single tokens an enormous weight.
LOWEST_RATIO = 0.05
BLOCK_SHARE = 0.5
# Decoding mostly uses blocks of 32; the others make the model indifferent to the choice.
BLOCK_LENGTHS = (32, 32, 32, 32, 8, 16, 64)
# How often the block in work is the one after the end of the answer, where only padding is left.
PADDING_SHARE = 0.1
# Blocks that are not yet in work teach little, since decoding does not commit there.
LATER_WEIGHT = 0.1


class Noise(NamedTuple):
    """The hidden positions, their weights, and the number of tokens they stand for."""

    masked_BL: Tensor
    weight_BL: Tensor
    tokens: Tensor


def draw_noise(batch: Batch, generator: torch.Generator) -> Noise:
    """Draw the masks of one batch."""
    size, length = batch.tokens_BL.shape
    device = batch.tokens_BL.device
    ratio_B1 = torch.rand(size, 1, generator=generator, device=device)
    ratio_B1 = LOWEST_RATIO + (1 - LOWEST_RATIO) * ratio_B1
    chance_BL = torch.rand(size, length, generator=generator, device=device)
    offset_BL = torch.arange(length, device=device) - batch.prompt_B[:, None]
    in_work_BL, later_BL = _regions(batch, offset_BL, generator)
    masked_BL = (in_work_BL & (chance_BL < ratio_B1)) | later_BL
    weight_BL = torch.where(later_BL, LATER_WEIGHT, 1 / ratio_B1) * masked_BL
    tokens = in_work_BL.sum() + LATER_WEIGHT * later_BL.sum()
    return Noise(masked_BL, weight_BL, tokens)


def masked_loss(model: Pebble, batch: Batch, noise: Noise) -> Tensor:
    """The weighted cross-entropy of the hidden tokens."""
    canvas_BL = batch.tokens_BL.masked_fill(noise.masked_BL, special_id(MASK))
    logits_MV = model.logits(model(canvas_BL)[noise.masked_BL])
    target_M = batch.tokens_BL[noise.masked_BL]
    loss_M = F.cross_entropy(logits_MV.float(), target_M, reduction="none")
    return (loss_M * noise.weight_BL[noise.masked_BL]).sum() / noise.tokens


def _regions(batch: Batch, offset_BL: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    size, length = offset_BL.shape
    device = offset_BL.device
    pick_B3 = torch.rand(size, 3, generator=generator, device=device)
    lengths = torch.tensor(BLOCK_LENGTHS, device=device)
    choice_B = torch.randint(len(BLOCK_LENGTHS), (size,), generator=generator, device=device)
    block_B = lengths[choice_B]
    # The first end token stands right behind the answer; its block is the last one of interest.
    last_B = batch.answer_B // block_B
    current_B = (pick_B3[:, 0] * (last_B + 1)).long()
    current_B = torch.where(pick_B3[:, 1] < PADDING_SHARE, last_B + 1, current_B)
    current_B = torch.minimum(current_B, (length - batch.prompt_B - 1) // block_B)
    place_BL = offset_BL.div(block_B[:, None], rounding_mode="floor")
    answer_BL = offset_BL >= 0
    in_blocks_B1 = (pick_B3[:, 2] < BLOCK_SHARE)[:, None]
    later_BL = answer_BL & in_blocks_B1 & (place_BL > current_B[:, None])
    in_work_BL = answer_BL & (~in_blocks_B1 | (place_BL == current_B[:, None]))
    return in_work_BL, later_BL
