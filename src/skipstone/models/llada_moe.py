"""LLaDA-MoE: 7B-A1B Base and Instruct.

Method: "LLaDA-MoE" (arXiv 2509.24389). OLMoE's decoder with full bidirectional attention, whose
heads of queries and keys are normalised one by one. Each row goes through its best experts, and
their weights are the softmax over all experts as it is: the published code passes over
``norm_topk_prob`` and ``routed_scaling_factor``.
"""

from __future__ import annotations

from dataclasses import replace

from skipstone.models import experts, llama_style
from skipstone.models.architecture import Architecture
from skipstone.models.base import ModelConfig, MoEConfig
from skipstone.models.chat import ROLE_TAGS
from skipstone.models.example import Example
from skipstone.models.fields import Fields
from skipstone.models.guide import Guide
from skipstone.models.keys import MISSING
from skipstone.models.names import LLAMA_NAMES, WeightNames
from skipstone.ops.model.reference_experts import Router

NAME = "LLaDAMoEModelLM"

_KEYS = llama_style.keys(
    "num_experts",
    "num_experts_per_tok",
    "expert_intermediate_size",
    "moe_layer_freq",
    supported={
        "qk_layernorm": (True,),
        "moe_router_score_function": ("softmax", MISSING, None),
        # Added behind the softmax, it would be part of the weights.
        "moe_router_enable_expert_bias": (False, MISSING, None),
        "shared_expert_intermediate_size": (0, MISSING, None),
        "router_num_group": (MISSING, None),
        "router_topk_group": (MISSING, None),
    },
    harmless=(
        # Of dense layers, of which there are none.
        "dense_intermediate_size",
        "norm_topk_prob",
        "output_router_logits",
        "routed_scaling_factor",
        "router_aux_loss_coef",
    ),
)


def _read(fields: Fields) -> ModelConfig:
    config = llama_style.read(
        fields, NAME, mask_id=fields.mask_id("<|mask|>"), mlp_width="expert_intermediate_size"
    )
    _check_layers(fields, config.num_layers)
    num_experts, top_k = experts.counts(fields)
    moe = MoEConfig(
        num_experts=num_experts,
        expert_width=config.mlp_width,
        router=Router(top_k, "softmax"),
    )
    return replace(config, qk_norm=True, moe=moe)


def _check_layers(fields: Fields, num_layers: int) -> None:
    """Refuse layers without experts, which no published checkpoint has."""
    stated = fields.stated("moe_layer_freq")
    if isinstance(stated, bool) or stated not in (None, 1, [1] * num_layers):
        raise fields.refuse(
            f"moe_layer_freq must be 1 for each of the {num_layers} layers: layers without experts "
            f"are not computed, use a published LLaDA-MoE checkpoint"
        )


_EXAMPLE = llama_style.example(
    NAME,
    "llada",
    num_key_value_heads=4,
    # Of dense layers, of which there are none.
    intermediate_size=None,
    dense_intermediate_size=64,
    expert_intermediate_size=12,
    moe_layer_freq=[1, 1],
    num_experts=6,
    num_experts_per_tok=2,
    moe_router_score_function="softmax",
    norm_topk_prob=None,
    qk_layernorm=True,
    eos_token_id=256,
    pad_token_id=256,
)


LLADA_MOE = Architecture(
    name=NAME,
    model_type="llada",
    title="LLaDA-MoE",
    keys=_KEYS,
    read=_read,
    names=WeightNames(
        outer=LLAMA_NAMES.outer,
        layer=LLAMA_NAMES.layer,
        inner={**LLAMA_NAMES.inner, **experts.NAMES},
        any_float=experts.ANY_FLOAT,
    ),
    guide=Guide(
        checkpoints="LLaDA-MoE-7B-A1B Base and Instruct",
        ids="mask 156895, from the tokenizer; EOS 156892",
        chat="<role>HUMAN</role> and its like before a turn, <|role_end|> behind it",
        verified=(
            "logits of the published modelling file, within 1e-4",
            "tokens and forwards of LLaDA's generate and of dInfer's loops: 52 of 52",
        ),
        by="its authors' dInfer decodes by a threshold, as Skipstone does",
    ),
    example=Example(
        config=_EXAMPLE,
        special={"<|endoftext|>": 256, "<|role_end|>": 258, "<|mask|>": 259},
        named={
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "mask_token": "<|mask|>",
        },
        template=ROLE_TAGS,
    ),
    stop_tokens=("<|role_end|>",),
)
