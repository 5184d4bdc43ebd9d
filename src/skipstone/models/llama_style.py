"""What config.json of Llama and Qwen, and of the many that follow them, have in common."""

from __future__ import annotations

from collections.abc import Mapping

from skipstone.models.base import ModelConfig
from skipstone.models.example import VOCAB
from skipstone.models.fields import LONGEST, Fields
from skipstone.models.keys import MISSING, PLAIN, Keys

_SPELLINGS: dict[str, tuple[str, ...]] = {
    "hidden_size": (),
    "num_hidden_layers": (),
    "num_attention_heads": (),
    "num_key_value_heads": (),
    "intermediate_size": (),
    "max_position_embeddings": (),
    "rms_norm_eps": (),
    "tie_word_embeddings": (),
    "rope_theta": (),
    "vocab_size": (),
    "head_dim": (),
    "mask_token_id": (),
    "eos_token_id": (),
}

# A window counts only where ``use_sliding_window`` says so, which is refused.
_UNUSED = frozenset(("sliding_window", "max_window_layers"))


def keys(
    *also_read: str,
    harmless: tuple[str, ...] = (),
    supported: Mapping[str, tuple[object, ...]] | None = None,
) -> Keys:
    """The keys of such a file.

    Args:
        also_read: keys that one architecture reads besides.
        harmless: keys of one architecture that change nothing at inference.
        supported: keys of one architecture that can have one meaning, as ``Keys`` has them.
    """
    others = _UNUSED.union(also_read)
    plain = {key: values for key, values in PLAIN.items() if key not in others}
    return Keys(
        spellings=_SPELLINGS,
        also_read=frozenset(also_read),
        supported={
            **plain,
            "hidden_act": ("silu",),
            # Set, it makes every norm a LayerNorm.
            "layer_norm_eps": (MISSING, None),
            "use_mrope": (False, MISSING, None),
            "clip_qkv": (MISSING, None),
            **(supported or {}),
        },
        harmless=_UNUSED.union(harmless),
    )


def read(
    fields: Fields,
    architecture: str,
    *,
    mask_id: int | None = None,
    implies_heads: bool = True,
    mlp_width: str = "intermediate_size",
) -> ModelConfig:
    """What such a file says; what only one architecture does is added by its entry.

    Args:
        fields: of the file.
        architecture: whose it is.
        mask_id: where the file does not say; None: it has to.
        implies_heads: whether heads are as wide as the model over them where nothing is written.
        mlp_width: which key says how wide an MLP is.

    Raises:
        CheckpointError: something is missing or no number.
    """
    width, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    return ModelConfig(
        architecture=architecture,
        width=width,
        num_layers=fields.integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=fields.divisor("num_key_value_heads", "num_attention_heads", heads),
        head_width=_head_width(fields, width, heads, implied=implies_heads),
        mlp_width=fields.integer(mlp_width),
        vocab_size=fields.integer("vocab_size"),
        max_length=fields.integer("max_position_embeddings", most=LONGEST),
        rope_theta=fields.theta(),
        norm_eps=fields.number("rms_norm_eps"),
        tied_head=fields.flag("tie_word_embeddings"),
        mask_id=fields.integer("mask_token_id", mask_id, least=0),
        eos_id=fields.integer("eos_token_id", least=0),
        # Cosine and sine are cast to the model's dtype before they are used.
        rounds_rotation=True,
    )


def _head_width(fields: Fields, width: int, heads: int, *, implied: bool) -> int:
    """Width of a head: as written, or the model's over the heads."""
    found = fields.integer("head_dim", width // heads if implied else None)
    if fields.stated("head_dim") is None and width % heads:
        raise fields.refuse(
            f"hidden_size {width} over num_attention_heads {heads} gives no head width, and "
            f"head_dim is missing; check all three"
        )
    if found % 2:
        raise fields.refuse(f"heads have width {found}, which rotary embedding cannot split; check")
    return found


def example(architecture: str, model_type: str, **own: object) -> dict[str, object]:
    """config.json of a tiny model with the keys of such a file.

    Args:
        architecture: the published class.
        model_type: as the file has it beside the class.
        own: keys of its own, or other values.
    """
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "vocab_size": VOCAB,
        "max_position_embeddings": 256,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "torch_dtype": "float32",
        "use_cache": False,
    } | own
