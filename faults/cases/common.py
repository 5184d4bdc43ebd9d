"""Settings, prompts and truths that cases of several kinds share."""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch.nn.attention import SDPBackend, sdpa_kernel

from faults.specimen import PROMPTS
from faults.truth import CACHED, Truth, in_block, parted

SKIP = "unmask=fixed skip=cosine:skip_threshold=0.999"
LOOSE = "unmask=fixed skip=cosine:skip_threshold=0.99"
FIXED = "unmask=fixed"
DLLM = "cache=dllm:prompt_every=8,response_every=4"
DYLLM = "cache=dyllm:threshold=0.9"
SHORT_ANSWERS = (
    "Sort the words flower, water, eagle from A to Z.",
    "Repeat after me: silver, hammer, pencil.",
    "Write this list down once more: zebra, engine, violin.",
)
SURE = ("I have a question. What is Carl Sagan known for?", *PROMPTS[:2])
COMPANION = ("Quiz time! Tell me about David Hilbert, and about his home.",)
IN_BLOCK = Truth(CACHED, where=in_block)
PARTED = Truth(parted)


def math_kernel() -> AbstractContextManager[object]:
    """Attention as plain products, not fused."""
    return sdpa_kernel(SDPBackend.MATH)
