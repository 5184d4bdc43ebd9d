"""SDAR: 1.7B, 4B and 8B, and what has its shape (TraDo).

Method: "SDAR" (arXiv 2510.06303). Qwen3's decoder, whose attention is causal over blocks and
bidirectional within them; queries and keys are normalised head by head.
"""

from __future__ import annotations

from dataclasses import replace

from skipstone.models import llama_style
from skipstone.models.architecture import Architecture
from skipstone.models.base import ModelConfig
from skipstone.models.chat import CHATML
from skipstone.models.example import Example
from skipstone.models.fields import Fields
from skipstone.models.guide import Guide
from skipstone.models.names import LLAMA_NAMES
from skipstone.reach import Reach

NAME = "SDARForCausalLM"

# What the published checkpoints are trained with where they do not say so.
_BLOCK_SIZE = 4


def _read(fields: Fields) -> ModelConfig:
    # Heads are wider than the model over them.
    config = llama_style.read(fields, NAME, implies_heads=False)
    reach = Reach(block_size=fields.integer("block_size", _BLOCK_SIZE))
    return replace(config, qk_norm=True, reach=reach)


SDAR = Architecture(
    name=NAME,
    model_type="sdar",
    title="SDAR",
    keys=llama_style.keys(
        "block_size",
        harmless=(
            "debug",
            "ep_size",
            "fuse_cross_entropy",
            "micro_forward",
            "skip_checkpoint",
            "use_deepep",
        ),
    ),
    read=_read,
    names=LLAMA_NAMES,
    guide=Guide(
        checkpoints="SDAR 1.7B, 4B and 8B, TraDo",
        ids="mask 151669, EOS 151643, from config.json",
        chat="ChatML: turns ended by <|im_end|>",
        verified=(
            "logits of the published modelling file, within 1e-4",
            "tokens and forwards of generate.py, static, dynamic and sequential: 71 of 71, with "
            "its quota kept to the masks that are left",
        ),
        recommended={"unmask": "quota:threshold=0.9", "stop_after": "block"},
        by="the dynamic rule of its authors' generate.py, which draws at temperature 1 unless told "
        "otherwise; greedy here",
        missing=(
            "SDAR-30B-A3B: its router is not built",
            "DreamReasoner-8B, of the same shape: its files were not at hand, and name Dream",
            "its entropy_bounded rule: the published code of it does not run",
        ),
    ),
    example=Example(
        config=llama_style.example(
            NAME,
            "sdar",
            head_dim=8,
            block_size=_BLOCK_SIZE,
            mask_token_id=259,
            eos_token_id=256,
            pad_token_id=256,
        ),
        special={"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258, "<|MASK|>": 259},
        named={
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "mask_token": "<|MASK|>",
        },
        template=CHATML,
        generation={"eos_token_id": 256, "pad_token_id": 256},
    ),
    stop_tokens=("<|im_end|>",),
)
