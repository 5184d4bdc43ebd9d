"""What a shadow says of committed tokens: how probable each is where it is not seen.

Shape letters: N committed tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skipstone.ops.decide.reference import Cut, Scored


def doubted(logits_NV: Tensor, held_N: Tensor, mask_id: int, cuts: Sequence[Cut]) -> Scored:
    """Offer the mask in place of each token, in float64.

    Args:
        logits_NV: of the shadow's rows at committed tokens.
        held_N: int64, these tokens.
        mask_id: what may be written there.
        cuts: as ``score`` takes them; a token that is not possible there has no probability.

    Returns:
        The mask as token, the probability of the one that is held as confidence; and as runner-up
        the most probable other one.
    """
    logits64_NV = logits_NV.to(torch.float64)
    if cuts:
        parts = zip(cuts, logits64_NV.split([cut.num_rows for cut in cuts]), strict=True)
        logits64_NV = torch.cat([cut.of(part_NV, mask_id) for cut, part_NV in parts])
    probability_NV = logits64_NV.softmax(-1)
    confidence_N = probability_NV.gather(-1, held_N[:, None])[:, 0]
    probability_NV[:, mask_id] = 0
    other = probability_NV.scatter_(-1, held_N[:, None], 0.0).max(-1)
    mask_N = torch.full_like(held_N, mask_id)
    return Scored(mask_N, confidence_N, other.indices, other.values)
