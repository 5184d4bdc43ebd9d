"""Dream: 7B Base and Instruct, and what has its shape (Dream-Coder, DiffuCoder).

Method: Ye et al., "Dream 7B" (arXiv 2508.15487). Qwen2.5's decoder with full bidirectional
attention: biases of queries, keys and values, grouped queries. As it was made from a model of the
next token, the row at a position scores the position after it.
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

NAME = "DreamModel"


def _read(fields: Fields) -> ModelConfig:
    return replace(llama_style.read(fields, NAME), qkv_bias=True, reach=Reach(score_offset=-1))


DREAM = Architecture(
    name=NAME,
    model_type="Dream",
    title="Dream",
    keys=llama_style.keys(),
    read=_read,
    names=LLAMA_NAMES,
    guide=Guide(
        checkpoints="Dream-v0-7B Base and Instruct, Dream-Coder-7B, DiffuCoder-7B, d3LLM-Dream",
        ids="mask 151666, EOS 151643, from config.json",
        chat="ChatML: turns ended by <|im_end|>",
        verified=(
            "logits of the published modelling file, within 1e-4",
            "tokens and forwards of diffusion_generate and of Fast-dLLM's Dream: 74 of 74",
        ),
        recommended={
            "unmask": "fixed:order=entropy,schedule=time",
            "temperature": "0.2",
            "top_p": "0.95",
        },
        by="the README of its authors",
        missing=("sampling was not compared token by token: random numbers are drawn otherwise",),
    ),
    example=Example(
        config=llama_style.example(
            NAME, "Dream", mask_token_id=260, eos_token_id=256, pad_token_id=256
        ),
        special={
            "<|endoftext|>": 256,
            "<|im_start|>": 257,
            "<|im_end|>": 258,
            "<|beginoftext|>": 259,
            "<|mask|>": 260,
        },
        named={
            "bos_token": "<|beginoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "mask_token": "<|mask|>",
        },
        template=CHATML,
        generation={"eos_token_id": 256, "pad_token_id": 256, "mask_token_id": 260},
    ),
    stop_tokens=("<|im_end|>",),
)
