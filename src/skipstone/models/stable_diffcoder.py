"""Stable-DiffCoder: Llama's decoder, whose attention is causal over blocks.

Method: "Stable-DiffCoder" (ByteDance Seed). Blocks of 4 are what it was published with; its code
decodes with others, too, and attends as it decodes.
"""

from __future__ import annotations

from dataclasses import replace

from skipstone.models import llama_style
from skipstone.models.architecture import Architecture
from skipstone.models.base import ModelConfig
from skipstone.models.example import Example
from skipstone.models.fields import Fields
from skipstone.models.guide import Guide
from skipstone.models.names import LLAMA_NAMES
from skipstone.reach import Reach

NAME = "StableDiffcoderForCausalLM"

# Neither is in config.json.
_MASK_TOKEN = "<[MASK_TOKEN]>"
_BLOCK_SIZE = 4


def _read(fields: Fields) -> ModelConfig:
    config = llama_style.read(fields, NAME, mask_id=fields.mask_id(_MASK_TOKEN))
    return replace(config, reach=Reach(block_size=fields.integer("block_size", _BLOCK_SIZE)))


STABLE_DIFFCODER = Architecture(
    name=NAME,
    model_type="llama",
    title="Stable-DiffCoder",
    keys=llama_style.keys("block_size"),
    read=_read,
    names=LLAMA_NAMES,
    guide=Guide(
        checkpoints="Stable-DiffCoder-8B-Instruct",
        ids="mask <[MASK_TOKEN]>, from the tokenizer; EOS 2",
        chat="as its tokenizer says",
        verified=(
            "logits of a transcription of the published modelling file, within 1e-4",
            "tokens and forwards of a transcription of its generate_block: 52 of 52",
        ),
        recommended={"unmask": "threshold:value=0.95", "stop_after": "block"},
        by="the defaults of its published code",
    ),
    example=Example(
        config=llama_style.example(NAME, "llama", bos_token_id=0, eos_token_id=2, pad_token_id=1),
        special={"<[BOS]>": 0, "<[PAD]>": 1, "<[EOS]>": 2, _MASK_TOKEN: 5},
        named={
            "bos_token": "<[BOS]>",
            "eos_token": "<[EOS]>",
            "pad_token": "<[PAD]>",
            "mask_token": _MASK_TOKEN,
        },
    ),
    needs_name=True,
)
