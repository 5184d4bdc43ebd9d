"""config.json is read as the published code reads it; what is not computed is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skipstone.errors import CheckpointError
from skipstone.models.base import ModelConfig
from skipstone.models.config import read_config
from skipstone.models.keys import HARMLESS, MISSING
from skipstone.models.llada import KEYS
from skipstone.models.table import ARCHITECTURES
from skipstone.testing.checkpoint import EOS, HEADS, MASK, VOCAB, WIDTH, config_fields, write_json


def read(directory: Path, *without: str, **changes: object) -> ModelConfig:
    """The published fields with some changed and some left out."""
    fields = config_fields() | changes
    for name in without:
        del fields[name]
    write_json(directory / "config.json", fields)
    return read_config(directory)


def refusal(directory: Path, *without: str, **changes: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(directory, *without, **changes)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500 + len(str(directory))
    return message


# ---------------------------------------------------------------- the rotary embedding


def test_the_base_may_lie_in_rope_parameters(tmp_path: Path) -> None:
    table = {"rope_type": "default", "rope_theta": 500000.0}
    assert read(tmp_path, "rope_theta", rope_parameters=table).rope_theta == 500000.0


@pytest.mark.parametrize("name", KEYS.spellings["rope_theta"])
def test_the_base_under_any_published_spelling(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, "rope_theta", **{name: 1e6}).rope_theta == 1e6


def test_a_base_that_nobody_wrote_is_never_guessed(tmp_path: Path) -> None:
    assert "rope_theta is missing" in refusal(tmp_path, "rope_theta")
    assert "rope_theta is missing" in refusal(tmp_path, rope_theta=None)
    table = {"rope_type": "default"}
    assert "rope_theta is missing" in refusal(tmp_path, "rope_theta", rope_parameters=table)


def test_spellings_of_the_base_may_agree_but_not_disagree(tmp_path: Path) -> None:
    agreed = {"rope_type": "default", "rope_theta": 500000}
    assert read(tmp_path, rope_parameters=agreed).rope_theta == 500000.0
    message = refusal(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    assert "rope_theta=500000.0 and rope_parameters.rope_theta=1000000.0 contradict" in message


@pytest.mark.parametrize("name", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("key", ["rope_type", "type"])
@pytest.mark.parametrize(
    "kind", ["linear", "dynamic", "yarn", "longrope", "llama3", "proportional"]
)
def test_scaled_rotary_embeddings_are_refused(
    tmp_path: Path, name: str, key: str, kind: str
) -> None:
    table = {key: kind, "factor": 4.0, "rope_theta": 500000.0}
    message = refusal(tmp_path, **{name: table})
    assert f"{name} has {key}={kind!r} (must be 'default')" in message


@pytest.mark.parametrize(
    "table",
    [
        None,
        {},
        {"rope_type": "default"},
        {"type": "default", "factor": 1.0},
        {"rope_type": "default", "attention_factor": None, "beta_fast": None},
    ],
)
def test_a_table_that_scales_nothing_is_accepted(tmp_path: Path, table: object) -> None:
    assert read(tmp_path, rope_scaling=table).rope_theta == 500000.0


@pytest.mark.parametrize(
    ("table", "fragment"),
    [
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"rope_type": "default", "factor": 8.0}, "factor=8.0"),
        ({"rope_type": "default", "attention_factor": 1.2}, "attention_factor=1.2"),
        ({"full_attention": {"rope_type": "default"}}, "full_attention={"),
        ("yarn", "rope_parameters is 'yarn'"),
        ({"rope_theta": "much"}, "rope_parameters.rope_theta is 'much', must be a positive"),
    ],
)
def test_tables_that_say_more_are_refused(tmp_path: Path, table: object, fragment: str) -> None:
    assert fragment in refusal(tmp_path, "rope_theta", rope_parameters=table)


@pytest.mark.parametrize("value", [0, -1, True, "500000", [5], float("nan"), float("inf"), 10**400])
def test_a_base_is_a_positive_finite_number(tmp_path: Path, value: object) -> None:
    assert "rope_theta is " in refusal(tmp_path, rope_theta=value)
    assert "rms_norm_eps is " in refusal(tmp_path, rms_norm_eps=value)


# ---------------------------------------------------------------- one meaning, several spellings


def test_the_names_of_transformers_are_read_too(tmp_path: Path) -> None:
    published = read(tmp_path)
    renamed = {other: config_fields()[name] for name, (other, *_) in KEYS.spellings.items()}
    assert read(tmp_path, *KEYS.spellings, **renamed) == published


@pytest.mark.parametrize(("name", "others"), KEYS.spellings.items())
def test_two_spellings_that_disagree_are_refused(
    tmp_path: Path, name: str, others: tuple[str, ...]
) -> None:
    value = config_fields()[name]
    for other in others:
        assert read(tmp_path, **{other: value}) == read(tmp_path)
        contrary = not value if isinstance(value, bool) else value * 2  # type: ignore[operator]
        assert f"{name}={value!r} and {other}={contrary!r} contradict" in refusal(
            tmp_path, **{other: contrary}
        )


@pytest.mark.parametrize(
    ("kv_heads", "shared", "expected"),
    [(None, None, HEADS), (None, True, 1), (None, False, HEADS), (1, True, 1), (4, False, 4)],
)
def test_grouped_queries_as_the_published_class_reads_them(
    tmp_path: Path, kv_heads: int | None, shared: bool | None, expected: int
) -> None:
    config = read(tmp_path, n_kv_heads=kv_heads, multi_query_attention=shared)
    assert config.num_kv_heads == expected


@pytest.mark.parametrize(("kv_heads", "shared"), [(4, True), (2, True), (2, False)])
def test_key_heads_that_contradict_multi_query(tmp_path: Path, kv_heads: int, shared: bool) -> None:
    message = refusal(tmp_path, n_kv_heads=kv_heads, multi_query_attention=shared)
    assert f"multi_query_attention={shared} and n_kv_heads={kv_heads} contradict" in message


def test_the_width_of_a_head_is_that_of_the_model(tmp_path: Path) -> None:
    assert read(tmp_path, head_dim=WIDTH // HEADS) == read(tmp_path)
    assert read(tmp_path, head_dim=None) == read(tmp_path)
    assert "head_dim=8 contradicts" in refusal(tmp_path, head_dim=8)


def test_the_width_of_the_mlp_may_be_a_ratio(tmp_path: Path) -> None:
    assert read(tmp_path, "mlp_hidden_size", mlp_ratio=4).mlp_width == 4 * WIDTH
    assert read(tmp_path, mlp_ratio=2.6875).mlp_width == read(tmp_path).mlp_width


def test_the_embedding_has_a_row_for_every_token(tmp_path: Path) -> None:
    assert read(tmp_path, embedding_size=None).vocab_size == VOCAB
    assert read(tmp_path, vocab_size=262).vocab_size == VOCAB
    assert "embedding_size 200 is less than" in refusal(tmp_path, embedding_size=200)


@pytest.mark.parametrize("key", ["mask_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", [None, -1, VOCAB, 1.5, True, "5", [EOS, MASK]])
def test_special_ids_are_ids(tmp_path: Path, key: str, value: object) -> None:
    assert f"{key} is " in refusal(tmp_path, **{key: value})


# ---------------------------------------------------------------- values, missing and unknown keys


@pytest.mark.parametrize("key", KEYS.supported)
def test_every_value_that_is_computed_is_accepted(tmp_path: Path, key: str) -> None:
    for value in KEYS.supported[key]:
        if value is not MISSING:
            assert read(tmp_path, **{key: value}) == read(tmp_path)


@pytest.mark.parametrize("key", KEYS.supported)
def test_every_other_value_is_refused_by_name(tmp_path: Path, key: str) -> None:
    for value in (2.5, "other", [1], {"a": 1}):
        message = refusal(tmp_path, **{key: value})
        assert "unsupported settings" in message
        assert f"{key}={value!r} (must be " in message


@pytest.mark.parametrize("key", ["block_type", "layer_norm_type", "activation_type", "rope"])
def test_what_the_published_class_takes_otherwise_must_be_written(tmp_path: Path, key: str) -> None:
    assert f"{key} is missing (must be " in refusal(tmp_path, key)
    assert f"{key}=None (must be " in refusal(tmp_path, **{key: None})


@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta", "weight_tying"])
def test_what_no_weight_confirms_must_be_written(tmp_path: Path, key: str) -> None:
    assert f"{key} is missing" in refusal(tmp_path, key)


def test_null_where_the_published_code_leaves_it_open(tmp_path: Path) -> None:
    assert read(tmp_path, bias_for_layer_norm=None, clip_qkv=None, sliding_window=None)
    assert "rope_full_precision=None" in refusal(tmp_path, rope_full_precision=None)


@pytest.mark.parametrize(
    "key", sorted((HARMLESS | KEYS.harmless) - {"architectures", "model_type"})
)
def test_what_changes_nothing_is_passed_over(tmp_path: Path, key: str) -> None:
    assert read(tmp_path, **{key: 0.1}) == read(tmp_path)


def test_dropout_has_no_effect_at_inference(tmp_path: Path) -> None:
    dropouts = dict.fromkeys(("attention_dropout", "residual_dropout", "embedding_dropout"), 0.5)
    assert read(tmp_path, **dropouts) == read(tmp_path)


@pytest.mark.parametrize("value", [True, False, 0, 2.0, "on", [1], {"a": 1}])
def test_an_unknown_key_is_refused_by_name(tmp_path: Path, value: object) -> None:
    message = refusal(tmp_path, use_swish_gates=value)
    assert f"use_swish_gates={value!r} is unknown" in message
    assert "if it does not, remove it from config.json" in message


def test_an_unknown_key_names_the_nearest_one(tmp_path: Path) -> None:
    assert "rope_thetta=5.0 is unknown (did you mean 'rope_theta'?)" in refusal(
        tmp_path, rope_thetta=5.0
    )


def test_unknown_keys_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    quiet = {"use_swish_gates": None, "_my_note": "x", "sometool_version": "1.2"}
    assert read(tmp_path, **quiet) == read(tmp_path)


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    assert "..." in refusal(tmp_path, mystery=["x" * 10000])
    assert "..." in refusal(tmp_path, **{"k" * 5000: 1})


@pytest.mark.parametrize("table", [{"x" * 5000: 1}, {"rope_type": "y" * 5000}])
def test_a_long_entry_of_a_table_is_cut(tmp_path: Path, table: object) -> None:
    assert len(refusal(tmp_path, rope_scaling=table)) < 500


def test_the_tables_of_keys_do_not_overlap() -> None:
    for entry in ARCHITECTURES.values():
        keys = entry.keys
        assert not keys.read & (HARMLESS | keys.harmless)
        assert not keys.read & keys.supported.keys()
        assert not (HARMLESS | keys.harmless) & keys.supported.keys()


def test_a_key_that_is_given_twice_is_named(tmp_path: Path) -> None:
    text = json.dumps(config_fields())
    (tmp_path / "config.json").write_text(text[:-1] + ', "rope_theta": 10000.0}')
    with pytest.raises(CheckpointError, match="key 'rope_theta' is given twice"):
        read_config(tmp_path)


# ---------------------------------------------------------------- other models


@pytest.mark.parametrize(
    ("architecture", "kind", "fragment"),
    [
        ("MMadaModelLM", "mmada", "this is MMaDA, a diffusion language model"),
        ("SDARMoeForCausalLM", "sdar_moe", "this is SDAR-MoE, a diffusion language model"),
        ("DreamModel", "dream", "with model_type 'dream': that of Dream is 'Dream'"),
        ("LlavaLLaDAModelLM", "llada", "this is LLaDA-V, a diffusion language model"),
        ("LlamaForCausalLM", "llama", "predicts the next token"),
        ("Qwen2ForCausalLM", "qwen2", "predicts the next token"),
        ("GPT2LMHeadModel", "gpt2", "predicts the next token"),
        ("BertModel", "bert", "architecture 'BertModel' is not supported"),
        ("LLaDAModelLM", "dream", "with model_type 'dream': that of dense LLaDA is 'llada'"),
        ("LLaDAModelLM", None, "without model_type"),
        (None, None, "neither architectures nor model_type"),
    ],
)
def test_each_other_family_has_its_own_cause(
    tmp_path: Path, architecture: str | None, kind: str | None, fragment: str
) -> None:
    named = [architecture] if architecture else None
    message = refusal(tmp_path, architectures=named, model_type=kind)
    assert fragment in message
    assert all(name in message for name in ARCHITECTURES)


@pytest.mark.parametrize(
    ("key", "settings", "fragment"),
    [
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "quantised (gptq, 4 bits)"),
        ("quantization_config", {"quant_method": "awq", "bits": 4}, "quantised (awq, 4 bits)"),
        (
            "quantization_config",
            {"quant_method": "bitsandbytes", "load_in_8bit": True},
            "quantised (bitsandbytes, 8 bits)",
        ),
        ("quantization_config", {"quant_method": "fp8"}, "quantised (fp8)"),
        ("quantization", {"group_size": 64, "bits": 4}, "quantised (4 bits)"),
        ("compression_config", {}, "quantised;"),
    ],
)
def test_quantised_checkpoints_say_how(
    tmp_path: Path, key: str, settings: object, fragment: str
) -> None:
    message = refusal(tmp_path, **{key: settings})
    assert fragment in message
    assert message.endswith("use the original")


def test_a_quantisation_that_is_null_is_none(tmp_path: Path) -> None:
    assert read(tmp_path, quantization_config=None) == read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"partial_rotary_factor": True},
        {"rope": 1},
        {"rope": 1.0},
        {"block_group_size": True},
        {"include_bias": 0},
        {"rope_parameters": {"factor": True}},
        {"rope_scaling": {"partial_rotary_factor": True}},
        {"weight_tying": False, "tie_word_embeddings": 0},
    ],
)
def test_a_bool_is_no_number_and_a_number_no_bool(
    tmp_path: Path, change: dict[str, object]
) -> None:
    assert f"{list(change)[-1]}" in refusal(tmp_path, **change)
