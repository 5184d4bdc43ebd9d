"""iLLaDA: LLaDA's successor with grouped queries, a tied head, and the names of Llama.

Method: "iLLaDA" (arXiv 2606.25331). Full bidirectional attention, no biases; cosine and sine are
rounded to the model's dtype before they rotate.
"""

from __future__ import annotations

from skipstone.models import llama_style
from skipstone.models.architecture import Architecture
from skipstone.models.base import ModelConfig
from skipstone.models.fields import Fields
from skipstone.models.names import LLAMA_NAMES

NAME = "ILLaDAForCausalLM"

# Neither config.json nor the tokenizer's files say which token is the mask: it is added token 5.
_MASK_ID = 5


def _read(fields: Fields) -> ModelConfig:
    return llama_style.read(fields, NAME, mask_id=_MASK_ID)


ILLADA = Architecture(
    name=NAME,
    model_type="illada",
    title="iLLaDA",
    keys=llama_style.keys(),
    read=_read,
    names=LLAMA_NAMES,
)
