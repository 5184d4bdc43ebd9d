"""Every key of every architecture's config.json: a value that means something else is refused.

Nothing that a published file says is passed over, but for keys that are known to change nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import skipstone
from skipstone.errors import CheckpointError
from skipstone.models.config import read_config
from skipstone.models.keys import HARMLESS, ROTARY_TABLES
from skipstone.models.table import ARCHITECTURES
from skipstone.testing import write_checkpoint

SPOILED = ("nonsense", -7, 0.123, 1e400, [9], {"a": 1}, True, 10**30)
# Numbers that no other key and no weight can contradict.
FREE = {"rope_theta", "rope_base", "rotary_base", "rotary_emb_base", "routed_scaling_factor"}
FREE |= {"rms_norm_eps", "layer_norm_eps", "layernorm_epsilon", "norm_eps"}
FLAGS = {"weight_tying", "tie_word_embeddings", "multi_query_attention"}
# A width that another key decides, and that of dense layers, of which there are none.
PASSED_OVER = {"LLaDAModelLM": {"mlp_ratio"}, "LLaDAMoEModelLM": {"intermediate_size"}}
NAMED = {"architectures": "architecture", "model_type": "architecture"}


def keys_of(name: str) -> list[str]:
    """All that its reader knows, and all that its files have."""
    entry = ARCHITECTURES[name]
    return sorted({*entry.example.config, *entry.keys.read, *entry.keys.supported, "never_heard"})


def is_meant(key: str, value: object, wanted: tuple[object, ...]) -> bool:
    """Whether a spoiled value happens to be one that may be there."""
    if key in FREE and isinstance(value, int | float) and not isinstance(value, bool):
        return 0 < value < 1e300
    return (key in FLAGS and value is True) or any(value is one for one in wanted)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_spoiled_value_of_any_key_is_refused_by_name_or_changes_nothing(
    tmp_path: Path, name: str
) -> None:
    entry = ARCHITECTURES[name]
    directory = write_checkpoint(tmp_path, architecture=name)
    right, fields = read_config(directory), dict(entry.example.config)
    harmless = HARMLESS | entry.keys.harmless | PASSED_OVER.get(name, set())
    wrong = list[str]()
    for key in keys_of(name):
        for value in SPOILED:
            (directory / "config.json").write_text(json.dumps(fields | {key: value}))
            try:
                found = read_config(directory)
            except CheckpointError as error:
                told = NAMED.get(key, key)
                if told not in str(error) or "\n" in str(error):
                    wrong.append(f"{key}={value!r} is refused without its name: {error}")
                continue
            passed_over = key in harmless - NAMED.keys() and found == right
            if not passed_over and not is_meant(key, value, entry.keys.supported.get(key, ())):
                wrong.append(f"{key}={value!r} is taken")
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_size_that_the_weights_do_not_have_is_refused(tmp_path: Path, name: str) -> None:
    """Twice and half of every number: the files contradict it, or nothing hangs on it."""
    directory = write_checkpoint(tmp_path, architecture=name)
    right, fields = read_config(directory), dict(ARCHITECTURES[name].example.config)
    free = {*FREE, "max_position_embeddings", "max_sequence_length", "block_size"}
    # How many of the rows and of the experts there are is chosen, and how heads are cut up.
    free |= {"num_experts_per_tok", "n_group", "topk_group", "n_heads", "num_attention_heads"}
    free |= {"mask_token_id", "eos_token_id", "partial_rotary_factor"}
    taken = list[str]()
    for key, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int) or key in free:
            continue
        for other in (2 * value, value // 2):
            (directory / "config.json").write_text(json.dumps(fields | {key: other}))
            try:
                found = skipstone.load(directory, device="cpu").config
            except CheckpointError:
                continue
            if found != right:
                taken.append(f"{key}={other}")
    assert taken == []


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_key_that_is_left_out_is_missed_or_means_what_the_class_takes(
    tmp_path: Path, name: str
) -> None:
    directory = write_checkpoint(tmp_path, architecture=name)
    right, fields = read_config(directory), dict(ARCHITECTURES[name].example.config)
    changed = list[str]()
    # A file that names no class is of the first with its type, and refused if it is not like it.
    unnamed = {"architectures"} if name == "LLaDAMoEModelLM" else set[str]()
    for key in fields.keys() - ROTARY_TABLES - unnamed:
        rest = {other: value for other, value in fields.items() if other != key}
        (directory / "config.json").write_text(json.dumps(rest))
        try:
            found = skipstone.load(directory, device="cpu").config
        except CheckpointError as error:
            if NAMED.get(key, key) not in str(error) and "does not match" not in str(error):
                changed.append(f"{key} is missed without its name: {error}")
            continue
        if found != right:
            changed.append(f"without {key} it is another model")
    assert changed == [], "\n".join(changed)
