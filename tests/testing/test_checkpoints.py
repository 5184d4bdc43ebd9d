"""Tiny checkpoints of every architecture load as published ones do, and decode."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import skipstone
from skipstone.engine import Engine
from skipstone.errors import CheckpointError
from skipstone.models.table import ARCHITECTURES
from skipstone.testing import write_checkpoint


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_one_that_loads_and_decodes(tmp_path: Path, name: str) -> None:
    model = skipstone.load(write_checkpoint(tmp_path, architecture=name), device="cpu")
    example = ARCHITECTURES[name].example
    assert model.config.architecture == name
    mask = example.named.get("mask_token", "<[MASK]>")
    assert (model.config.mask_id, model.config.eos_id) == (
        example.special[mask],
        example.special[example.named["eos_token"]],
    )
    settings = {"gen_length": 32, "eos_stop": False}
    prompts = ["Hello", [{"role": "user", "content": "a longer one, and by turns"}]]
    if example.template is None:
        prompts = ["Hello", "a longer one, without turns"]
    both = Engine(model, **settings).generate_batch(prompts)
    for prompt, result in zip(prompts, both, strict=True):
        assert result.tokens == Engine(model, **settings).generate(prompt).tokens
        assert model.config.mask_id not in result.tokens
        # What they decode varies, so that a mistake shows.
        assert len(set(result.tokens)) > 3
    assert both[0].tokens != both[1].tokens


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("tied", [False, True])
def test_each_comes_in_any_dtype_with_shared_heads_and_in_shards(
    tmp_path: Path, name: str, tied: bool
) -> None:
    directory = write_checkpoint(
        tmp_path, architecture=name, dtype=torch.bfloat16, tied=tied, kv_heads=1, shards=3
    )
    model = skipstone.load(directory, device="cpu", dtype="bfloat16")
    assert (model.config.num_kv_heads, model.config.tied_head) == (1, tied)
    assert len(list(directory.glob("model-*.safetensors"))) == 3


def test_no_architecture_but_those_of_the_table(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="did you mean 'DreamModel'"):
        write_checkpoint(tmp_path, architecture="DreamModels")


def test_fields_of_its_config_can_be_changed(tmp_path: Path) -> None:
    directory = tmp_path
    write_checkpoint(
        str(tmp_path), architecture="SDARForCausalLM", config={"block_size": 8}, template=None
    )
    assert skipstone.load(directory, device="cpu").config.reach.block_size == 8
    assert "chat_template" not in json.loads((directory / "tokenizer_config.json").read_text())


TURNS = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "V"},
]
HEADERS = "".join(
    f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}"
    for role, text in (
        ("system", "S<|eot_id|>"),
        ("user", "U<|eot_id|>"),
        ("assistant", "A<|eot_id|>"),
        ("user", "V<|eot_id|>"),
        ("assistant", ""),
    )
)
CHATML = (
    "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
    "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n"
)
ROLE_TAGS = (
    "<role>SYSTEM</role>S<|role_end|><role>HUMAN</role>U<|role_end|>"
    "<role>ASSISTANT</role>A<|role_end|><role>HUMAN</role>V<|role_end|><role>ASSISTANT</role>"
)


@pytest.mark.parametrize(
    ("name", "rendered"),
    [
        ("LLaDAModelLM", f"<|startoftext|>{HEADERS}"),
        ("DreamModel", CHATML),
        ("SDARForCausalLM", CHATML),
        ("LLaDAMoEModelLM", ROLE_TAGS),
        ("LLaDA2MoeModelLM", ROLE_TAGS),
    ],
)
def test_turns_are_written_as_its_authors_write_them(
    tmp_path: Path, name: str, rendered: str
) -> None:
    model = skipstone.load(write_checkpoint(tmp_path, architecture=name), device="cpu")
    assert model.text.render(TURNS) == rendered
    # The token that ends a turn is one of those that end an answer, and is no part of its text.
    (end,) = model.stop_ids
    assert rendered.count(model.text.token(end)) == 4
    assert end in model.text.encode(TURNS)
    assert model.text.decode([65, end]) == model.text.decode([65])
