"""Keys of a config.json: how they are spelled, which values are computed, which change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# In a tuple of values: the key may be absent.
MISSING = object()


@dataclass(frozen=True)
class Keys:
    """What an architecture reads of a config.json."""

    spellings: Mapping[str, tuple[str, ...]]
    """The published name of a key that is read, and what others call it."""
    supported: Mapping[str, tuple[object, ...]]
    """Keys that can have one meaning, and the values that mean it."""
    also_read: frozenset[str] = frozenset()
    """Keys that are read and have one spelling."""
    harmless: frozenset[str] = frozenset()
    """Keys that change nothing at inference, beside those of every architecture."""
    read: frozenset[str] = field(init=False)
    """All keys whose values are read."""

    def __post_init__(self) -> None:
        """Collect what is read."""
        spelled = frozenset(self.spellings).union(*self.spellings.values())
        object.__setattr__(self, "read", spelled | self.also_read | ROTARY_TABLES)


ROTARY_TABLES = frozenset(("rope_scaling", "rope_parameters"))
"""Keys whose tables say how positions are rotated."""

PLAIN: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", MISSING, None),
    "attention_bias": (False, MISSING, None),
    "qkv_bias": (False, MISSING, None),
    "mlp_bias": (False, MISSING, None),
    "use_bias": (False, MISSING, None),
    "qk_norm": (False, MISSING, None),
    "use_qk_norm": (False, MISSING, None),
    "qk_layernorm": (False, MISSING, None),
    "is_causal": (False, MISSING, None),
    "causal": (False, MISSING, None),
    "is_decoder": (False, MISSING, None),
    "is_encoder_decoder": (False, MISSING, None),
    "add_cross_attention": (False, MISSING, None),
    "use_sliding_window": (False, MISSING, None),
    "sliding_window": (MISSING, None),
    "layer_types": (MISSING, None),
    "partial_rotary_factor": (1, MISSING, None),
    "rotary_pct": (1, MISSING, None),
    "embedding_scale": (1, MISSING, None),
    "embedding_multiplier": (1, MISSING, None),
    "scale_emb": (1, MISSING, None),
    "residual_multiplier": (1, MISSING, None),
    "logit_scale": (1, MISSING, None),
    "logits_scaling": (1, MISSING, None),
    "attn_logit_softcapping": (MISSING, None),
    "final_logit_softcapping": (MISSING, None),
    "num_experts": (0, MISSING, None),
    "n_experts": (0, MISSING, None),
    "pruned_heads": ({}, MISSING, None),
}
"""Features of other models that no decoder here has, and the values that say so."""

HARMLESS = frozenset(
    (
        # Metadata.
        "architectures",
        "model_type",
        "auto_map",
        "torch_dtype",
        "dtype",
        "use_cache",
        "name_or_path",
        "tokenizer_class",
        "prefix",
        "task_specific_params",
        "problem_type",
        "finetuning_task",
        "id2label",
        "label2id",
        "num_labels",
        "cross_attention_hidden_size",
        "tie_encoder_decoder",
        "chunk_size_feed_forward",
        "pretraining_tp",
        "unsloth_fixed",
        "attn_implementation",
        "flash_attention",
        "use_flash_attention",
        # What a forward of that library returns.
        "return_dict",
        "return_dict_in_generate",
        "output_hidden_states",
        "output_attentions",
        "output_scores",
        "torchscript",
        "use_bfloat16",
        "tf_legacy_loss",
        # Ids that are not read from here.
        "bos_token_id",
        "pad_token_id",
        "sep_token_id",
        "decoder_start_token_id",
        "cls_token_id",
        "unk_token_id",
        # Training, initialisation and dropout.
        "gradient_checkpointing",
        "activation_checkpointing",
        "train_max_sequence_length",
        "attention_dropout",
        "residual_dropout",
        "embedding_dropout",
        "dropout",
        "hidden_dropout",
        "resid_pdrop",
        "embd_pdrop",
        "attn_pdrop",
        "mlp_dropout",
        "classifier_dropout",
        "init_device",
        "init_fn",
        "init_std",
        "init_cutoff_factor",
        "initializer_range",
        "scale_emb_init",
        "precision",
        # Defaults of another library's sampling.
        "max_length",
        "min_length",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "bad_words_ids",
        "num_return_sequences",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
    )
)
"""Keys that change nothing at inference."""
