"""Dense LLaDA: 8B Base, Instruct, 1.5.

Method: Nie et al., "Large Language Diffusion Models" (arXiv 2502.09992). Full bidirectional
attention, RMSNorm in float32, half-split rotary embedding in float32, SwiGLU, no biases.

A missing key of config.json means what the published class takes; where that would be another
architecture, and for what no weight can confirm (``rope_theta``, ``rms_norm_eps``,
``weight_tying``), it has to be written.
"""

from __future__ import annotations

from skipstone.models.architecture import Architecture
from skipstone.models.base import ModelConfig
from skipstone.models.chat import HEADERS
from skipstone.models.example import VOCAB, Example
from skipstone.models.fields import LONGEST, Fields
from skipstone.models.guide import Guide
from skipstone.models.keys import MISSING, PLAIN, Keys
from skipstone.models.names import WeightNames
from skipstone.quoting import shown

NAME = "LLaDAModelLM"

KEYS = Keys(
    spellings={
        "d_model": ("hidden_size",),
        "n_layers": ("num_hidden_layers",),
        "n_heads": ("num_attention_heads",),
        "n_kv_heads": ("num_key_value_heads",),
        "mlp_hidden_size": ("intermediate_size",),
        "max_sequence_length": ("max_position_embeddings",),
        "rms_norm_eps": ("layer_norm_eps", "layernorm_epsilon", "norm_eps"),
        "weight_tying": ("tie_word_embeddings",),
        "rope_theta": ("rope_base", "rotary_base", "rotary_emb_base"),
    },
    also_read=frozenset(
        (
            "vocab_size",
            "embedding_size",
            "mask_token_id",
            "eos_token_id",
            "multi_query_attention",
            "head_dim",
            "mlp_ratio",
        )
    ),
    supported={
        "block_type": ("llama",),
        "layer_norm_type": ("rms",),
        "activation_type": ("silu",),
        "rope": (True,),
        "rope_full_precision": (True, MISSING),
        "block_group_size": (1, MISSING),
        "layer_norm_with_affine": (True, MISSING),
        "alibi": (False, MISSING, None),
        "include_bias": (False, MISSING, None),
        "include_qkv_bias": (False, MISSING, None),
        "bias_for_layer_norm": (False, MISSING, None),
        "attention_layer_norm": (False, MISSING, None),
        "input_emb_norm": (False, MISSING, None),
        "scale_logits": (False, MISSING, None),
        "clip_qkv": (MISSING, None),
        **PLAIN,
    },
    harmless=frozenset(("alibi_bias_max", "attention_layer_norm_with_affine")),
)

NAMES = WeightNames(
    outer={
        "embedding": "model.transformer.wte.weight",
        "norm": "model.transformer.ln_f.weight",
        "head": "model.transformer.ff_out.weight",
    },
    layer="model.transformer.blocks.{}.",
    inner={
        "attention_norm": "attn_norm.weight",
        "q": "q_proj.weight",
        "k": "k_proj.weight",
        "v": "v_proj.weight",
        "out": "attn_out.weight",
        "mlp_norm": "ff_norm.weight",
        "gate": "ff_proj.weight",
        "up": "up_proj.weight",
        "down": "ff_out.weight",
    },
)


def _read(fields: Fields) -> ModelConfig:
    heads, width = fields.integer("n_heads"), fields.integer("d_model")
    head_width = _head_width(fields, width, heads)
    return ModelConfig(
        architecture=NAME,
        width=width,
        num_layers=fields.integer("n_layers"),
        num_heads=heads,
        num_kv_heads=_kv_heads(fields, heads),
        head_width=head_width,
        mlp_width=_mlp_width(fields),
        vocab_size=_vocab_size(fields),
        max_length=fields.integer("max_sequence_length", most=LONGEST),
        rope_theta=fields.theta(),
        norm_eps=fields.number("rms_norm_eps"),
        tied_head=fields.flag("weight_tying"),
        mask_id=fields.integer("mask_token_id", least=0),
        eos_id=fields.integer("eos_token_id", least=0),
    )


def _kv_heads(fields: Fields, heads: int) -> int:
    """Key and value heads, by either of the two keys that say how many there are."""
    shared = fields.stated("multi_query_attention")
    if shared is None:
        return fields.divisor("n_kv_heads", "n_heads", heads)
    implied = 1 if fields.flag("multi_query_attention") else heads
    stated = fields.integer("n_kv_heads", implied)
    if stated != implied:
        said = f"multi_query_attention={shown(shared)}", f"n_kv_heads={stated}"
        raise fields.contradiction(*said)
    return stated


def _head_width(fields: Fields, width: int, heads: int) -> int:
    """Width of a head, which the published class always takes from the model's."""
    implied = width // heads
    if width % heads or implied % 2:
        raise fields.refuse(
            f"d_model {width} over n_heads {heads} gives no even head width, which rotary "
            f"embedding needs; check both"
        )
    if (stated := fields.integer("head_dim", implied)) != implied:
        raise fields.refuse(
            f"head_dim={stated} contradicts d_model {width} over n_heads {heads}, which gives "
            f"{implied}; heads of another width are not computed"
        )
    return implied


def _mlp_width(fields: Fields) -> int:
    """Width of the MLP; a multiple of the model's if only that is written."""
    written = fields.stated("mlp_hidden_size") is not None
    if written or fields.stated("mlp_ratio") is None:
        return fields.integer("mlp_hidden_size")
    return fields.integer("mlp_ratio", most=1 << 10) * fields.integer("d_model")


def _vocab_size(fields: Fields) -> int:
    """Rows of the embedding, of which there may be more than tokens."""
    vocab = fields.integer("vocab_size")
    rows = fields.integer("embedding_size", vocab)
    if rows < vocab:
        raise fields.refuse(
            f"embedding_size {rows} is less than vocab_size {vocab}; copy config.json from the "
            f"published checkpoint"
        )
    return rows


_EXAMPLE: dict[str, object] = {
    "architectures": [NAME],
    "model_type": "llada",
    "block_type": "llama",
    "d_model": 16,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 4,
    "mlp_hidden_size": 24,
    "vocab_size": VOCAB,
    "embedding_size": VOCAB,
    "max_sequence_length": 128,
    "rope": True,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "weight_tying": False,
    "mask_token_id": 261,
    "eos_token_id": 257,
    "pad_token_id": 257,
}


LLADA = Architecture(
    name=NAME,
    model_type="llada",
    title="dense LLaDA",
    keys=KEYS,
    read=_read,
    names=NAMES,
    guide=Guide(
        checkpoints="LLaDA-8B Base and Instruct, LLaDA-1.5, d3LLM-LLaDA",
        ids="mask 126336, EOS 126081, from config.json",
        chat="turns with headers as in Llama 3, each ended by <|eot_id|>",
        verified=(
            "logits of Fast-dLLM's modelling file, within 1e-4, whole and of a block over a cache",
            "tokens and forwards of Fast-dLLM's generate without cache, with prefix and dual cache:"
            " 147 of 147, and 138 of 138 with grouped queries",
        ),
        by="Fast-dLLM's threshold and dual cache, which are Skipstone's defaults",
    ),
    example=Example(
        config=_EXAMPLE,
        special={
            "<|startoftext|>": 256,
            "<|endoftext|>": 257,
            "<|start_header_id|>": 258,
            "<|end_header_id|>": 259,
            "<|eot_id|>": 260,
            "<|mdm_mask|>": 261,
        },
        named={
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "mask_token": "<|mdm_mask|>",
        },
        template=HEADERS,
    ),
    stop_tokens=("<|eot_id|>",),
)
