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
from skipstone.models.fields import Fields
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
    stop_tokens=("<|im_end|>",),
)
