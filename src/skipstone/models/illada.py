"""iLLaDA: LLaDA's successor with grouped queries, a tied head, and the names of Llama.

Method: "iLLaDA" (arXiv 2606.25331). Full bidirectional attention, no biases; cosine and sine are
rounded to the model's dtype before they rotate.
"""

from __future__ import annotations

from skipstone.models import llama_style
from skipstone.models.architecture import Architecture
from skipstone.models.base import ModelConfig
from skipstone.models.example import Example
from skipstone.models.fields import Fields
from skipstone.models.guide import Guide
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
    guide=Guide(
        checkpoints="iLLaDA-8B Base and Instruct",
        ids="mask 5, which no published file says; EOS 2",
        chat="as its tokenizer says",
        verified=(
            "logits of a transcription of the published modelling file, within 1e-4",
            "tokens and forwards of LLaDA's generate and var_generate, of Fast-dLLM's threshold, "
            "and of an order from left to right: 46 of 46",
        ),
        recommended={"growing_canvas": "true", "stop_after": "block"},
        by="var_generate of its authors",
        missing=("the published config.json was not at hand: other keys are refused by name",),
    ),
    example=Example(
        config=llama_style.example(
            NAME, "illada", tie_word_embeddings=True, bos_token_id=0, eos_token_id=2, pad_token_id=1
        ),
        special={"<[BOS]>": 0, "<[PAD]>": 1, "<[EOS]>": 2, "<[MASK]>": _MASK_ID},
        named={"bos_token": "<[BOS]>", "eos_token": "<[EOS]>", "pad_token": "<[PAD]>"},
    ),
)
