"""Measures how well hidden tokens of held-out problems are recovered.

Shape letters: B problems, L length, D width, V vocabulary.
"""

from typing import NamedTuple, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor

from pebble.model import Pebble
from pebble.samples import tokenize
from pebble.tokenizer import MASK, special_id
from pebble.world import GROUPS, heldout

PER_GROUP = 64
LENGTH = 192
HIDDEN_SHARE = 0.5


class Validator(NamedTuple):
    """Held-out canvases with a fixed half of their answers hidden."""

    target_BL: Tensor
    canvas_BL: Tensor
    masked_BL: Tensor
    group_B: Tensor

    @classmethod
    def of(cls, tokenizer: Tokenizer, seed: int, device: torch.device) -> Self:
        """Draw the problems and the masks."""
        samples = tokenize(tokenizer, heldout(seed, PER_GROUP))
        target_BL = torch.from_numpy(samples.tokens_NL[:, :LENGTH].astype("int64"))
        offset_BL = torch.arange(LENGTH) - torch.from_numpy(samples.prompt_N)[:, None]
        # The first end token counts as part of the answer, the padding after it does not.
        answer_BL = (offset_BL >= 0) & (offset_BL <= torch.from_numpy(samples.answer_N)[:, None])
        chance_BL = torch.rand(answer_BL.shape, generator=torch.Generator().manual_seed(seed))
        masked_BL = answer_BL & (chance_BL < HIDDEN_SHARE)
        # As in training, padding behind the answer is hidden now and then, too.
        hidden_BL = (offset_BL >= 0) & (chance_BL < HIDDEN_SHARE)
        canvas_BL = target_BL.masked_fill(hidden_BL, special_id(MASK))
        group_B = torch.from_numpy(samples.group_N)
        moved = (part.to(device) for part in (target_BL, canvas_BL, masked_BL, group_B))
        return cls(*moved)

    @torch.no_grad()
    def accuracy(self, model: Pebble) -> dict[str, float]:
        """The share of hidden answer tokens that are right, for each group."""
        guess_BL = model.logits(model(self.canvas_BL)).argmax(-1)
        right_BL = (guess_BL == self.target_BL) & self.masked_BL
        shares = dict.fromkeys(GROUPS, 0.0)
        for number, group in enumerate(GROUPS):
            rows_B = self.group_B == number
            shares[group] = (right_BL[rows_B].sum() / self.masked_BL[rows_B].sum()).item()
        return shares
