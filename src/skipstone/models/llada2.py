"""LLaDA2: 2.0 and 2.1, mini and flash, and what has their shape (CAP).

Method: "LLaDA2.0" (arXiv 2512.15745). Attention is causal over absolute blocks, prompt included,
and bidirectional within them; a part of each head is rotated. Behind the first layers, each row
goes through experts that are chosen by sigmoid scores and a bias, from the best groups of them, and
through one that all rows share. Weights are the scores without the bias, over their sum.
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
from skipstone.models.names import WeightNames
from skipstone.ops.model.reference_experts import Router
from skipstone.reach import Reach

NAME = "LLaDA2MoeModelLM"

# What the published checkpoints are trained with; their config.json does not say so.
_BLOCK_SIZE = 32

_KEYS = llama_style.keys(
    "block_size",
    "first_k_dense_replace",
    "moe_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "n_group",
    "num_experts",
    "num_experts_per_tok",
    "num_shared_experts",
    "partial_rotary_factor",
    "routed_scaling_factor",
    "topk_group",
    supported={
        # The published class takes biases where nothing is written.
        "use_bias": (False,),
        "use_qkv_bias": (False, MISSING, None),
        "use_qk_norm": (True,),
        "use_rmsnorm": (True, MISSING),
        "norm_head": (False, MISSING, None),
        "norm_softmax": (False, MISSING, None),
        # What follows is not read by the published code, which has one rule.
        "score_function": ("sigmoid", MISSING, None),
        "norm_topk_prob": (True, MISSING, None),
        "moe_router_enable_expert_bias": (True, MISSING, None),
        "router_dtype": ("fp32", MISSING, None),
        "num_nextn_predict_layers": (0, MISSING, None),
    },
    harmless=(
        "moe_router_topk_scaling_factor",
        "mtp_loss_scaling_factor",
        "output_dropout",
        "output_router_logits",
        "rotary_dim",
        "router_aux_loss_coef",
    ),
)

_NAMES = WeightNames(
    outer={
        "embedding": "model.word_embeddings.weight",
        "norm": "model.norm.weight",
        "head": "lm_head.weight",
    },
    layer="model.layers.{}.",
    inner={
        "attention_norm": "input_layernorm.weight",
        "qkv": "attention.query_key_value.weight",
        "q_norm": "attention.query_layernorm.weight",
        "k_norm": "attention.key_layernorm.weight",
        "out": "attention.dense.weight",
        "mlp_norm": "post_attention_layernorm.weight",
        "gate": "mlp.gate_proj.weight",
        "up": "mlp.up_proj.weight",
        "down": "mlp.down_proj.weight",
        **experts.NAMES,
        "router.bias": "mlp.gate.expert_bias",
        "shared.gate": "mlp.shared_experts.gate_proj.weight",
        "shared.up": "mlp.shared_experts.up_proj.weight",
        "shared.down": "mlp.shared_experts.down_proj.weight",
    },
    any_float=experts.ANY_FLOAT | {"router.bias"},
)


def _read(fields: Fields) -> ModelConfig:
    config = llama_style.read(fields, NAME, mask_id=fields.mask_id("<|mask|>"), implies_heads=False)
    return replace(
        config,
        qk_norm=True,
        rotary_share=_rotary_share(fields, config.head_width),
        reach=Reach(block_size=fields.integer("block_size", _BLOCK_SIZE)),
        moe=_experts(fields),
    )


def _rotary_share(fields: Fields, head_width: int) -> float:
    """Part of a head that is rotated; an even number of its numbers."""
    share = fields.number("partial_rotary_factor")
    if share > 1 or int(head_width * share) % 2 or int(head_width * share) == 0:
        raise fields.refuse(
            f"partial_rotary_factor {share:g} of heads of width {head_width} is no even number of "
            f"at most {head_width}, which rotary embedding needs; check both"
        )
    return share


def _experts(fields: Fields) -> MoEConfig:
    num_experts, top_k = experts.counts(fields)
    groups, top_groups = _groups(fields, num_experts, top_k)
    width = fields.integer("moe_intermediate_size")
    return MoEConfig(
        num_experts=num_experts,
        expert_width=width,
        router=Router(
            top_k,
            "sigmoid",
            # A single weight is taken as it is.
            normalised=top_k > 1,
            scale=fields.number("routed_scaling_factor"),
            groups=groups,
            top_groups=top_groups,
        ),
        choice_bias=True,
        shared_width=_shared_width(fields, width),
        first_layer=fields.integer("first_k_dense_replace", least=0),
    )


def _groups(fields: Fields, num_experts: int, top_k: int) -> tuple[int, int]:
    """Groups of experts, and how many of them a row may choose from."""
    if (fields.stated("n_group") is None) != (fields.stated("topk_group") is None):
        raise fields.refuse(
            "only one of n_group and topk_group is written, and the other cannot be guessed; copy "
            "config.json from the published checkpoint"
        )
    groups = fields.divisor("n_group", "num_experts", 1)
    top_groups = fields.integer("topk_group", groups, most=groups)
    size = num_experts // groups
    if groups > 1 and (size < 2 or top_groups * size < top_k):
        raise fields.refuse(
            f"topk_group {top_groups} of n_group {groups}, with {size} experts each, cannot give "
            f"num_experts_per_tok {top_k}, or a group has no two experts; check all of them"
        )
    return groups, top_groups


def _shared_width(fields: Fields, width: int) -> int:
    """Width of the MLP that all rows share."""
    implied = width * fields.integer("num_shared_experts", 0, least=0)
    stated = fields.integer("moe_shared_expert_intermediate_size", implied, least=0)
    if stated not in (implied, width):
        raise fields.contradiction(
            f"moe_shared_expert_intermediate_size={stated}",
            f"num_shared_experts of moe_intermediate_size {width}",
        )
    return implied


_EXAMPLE = llama_style.example(
    NAME,
    "llada2_moe",
    head_dim=8,
    partial_rotary_factor=0.5,
    first_k_dense_replace=1,
    num_experts=8,
    num_experts_per_tok=2,
    n_group=4,
    topk_group=2,
    moe_intermediate_size=12,
    num_shared_experts=1,
    routed_scaling_factor=2.5,
    score_function="sigmoid",
    norm_topk_prob=True,
    moe_router_enable_expert_bias=True,
    router_dtype="fp32",
    use_bias=False,
    use_qkv_bias=False,
    use_qk_norm=True,
    mask_token_id=259,
    eos_token_id=256,
    pad_token_id=256,
)


LLADA2 = Architecture(
    name=NAME,
    model_type="llada2_moe",
    title="LLaDA2",
    keys=_KEYS,
    read=_read,
    names=_NAMES,
    guide=Guide(
        checkpoints="LLaDA2.0 and 2.1, mini and flash, CAP",
        ids="mask 156895, from config.json or the tokenizer; EOS 156892",
        chat="<role>HUMAN</role> and its like before a turn, <|role_end|> behind it",
        verified=(
            "logits of the published modelling file, within 1e-4",
            "tokens and forwards of the published generation of 2.0 and of 2.1: 78 of 78",
        ),
        recommended={
            "unmask": "quota:threshold=0.95",
            "stop_after": "block",
        },
        by="the generate of its authors' modelling file for 2.0; that for 2.1 is unmask=editing",
        missing=("2.2: inserts and deletes tokens",),
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
