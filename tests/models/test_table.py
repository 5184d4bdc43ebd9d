"""Every entry of the table: its names cover its weights, its files load, its logits are right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import skipstone
from skipstone.engine.forward.eager import EagerLayers
from skipstone.errors import CheckpointError
from skipstone.memory.store import KVStore
from skipstone.models import table
from skipstone.models.base import ModelConfig, Network
from skipstone.models.checkpoint import load_network
from skipstone.models.config import read_config
from skipstone.models.names import LLAMA_NAMES, WeightNames
from skipstone.models.parts.decoder import Decoder
from skipstone.models.table import ARCHITECTURES
from skipstone.reach import Reach
from skipstone.rows import Rows
from tests.models.test_contracts import CONFIGS

CPU = torch.device("cpu")
LLAMA_STYLE = ("ILLaDAForCausalLM", "DreamModel", "SDARForCausalLM", "StableDiffcoderForCausalLM")


def fields_of(name: str, **changes: object) -> dict[str, object]:
    """A config.json of an architecture that has the keys of Llama."""
    fields: dict[str, object] = {
        "architectures": [name],
        "model_type": ARCHITECTURES[name].model_type,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 24,
        "vocab_size": 64,
        "max_position_embeddings": 32,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "mask_token_id": 60,
        "eos_token_id": 61,
    }
    return fields | changes


def written(directory: Path, fields: dict[str, object]) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(fields))
    return directory


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("tied", [False, True])
def test_names_cover_every_weight_once(name: str, tied: bool) -> None:
    own = {"LLaDAMoEModelLM": "experts", "LLaDA2MoeModelLM": "grouped experts"}
    entry, config = ARCHITECTURES[name], CONFIGS[own.get(name, "both")]
    config = replace(config, tied_head=tied)
    if name == "LLaDAModelLM":
        # It has neither biases nor norms of heads, and no names for them.
        config = replace(config, qkv_bias=False, qk_norm=False)
    network = entry.build(replace(config, architecture=name), torch.float32, CPU)
    weights = network.published()
    assert {k: tuple(w.shape) for k, w in weights.items()} == entry.shapes(config)
    assert sum(w.numel() for w in weights.values()) == config.num_parameters
    # Views of memory that nobody else has: filling all of them fills all that is allocated.
    assert isinstance(network, Decoder)
    for weight in weights.values():
        weight.fill_(1)
    outer = [network.embedding, network.norm.weight, network.lm_head.weight]
    layers = [weight for layer in network.layers for weight in layer.places().values()]
    assert all(bool((weight == 1).all()) for weight in [*outer, *layers])


def test_a_file_may_hold_q_k_and_v_as_one() -> None:
    inner = {
        place: name
        for place, name in LLAMA_NAMES.inner.items()
        if place.partition(".")[0] not in ("q", "k", "v", "gate", "up")
    }
    inner |= {"qkv": "attention.query_key_value.weight", "gate_up": "mlp.gate_up_proj.weight"}
    inner |= {"qkv.bias": "attention.query_key_value.bias"}
    fused = WeightNames(LLAMA_NAMES.outer, LLAMA_NAMES.layer, inner)
    config = CONFIGS["shifted"]
    networks = [Decoder(config, names, torch.float32, CPU) for names in (fused, LLAMA_NAMES)]
    one, parts = (network.published() for network in networks)
    for i, weight in enumerate(one.values()):
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(i))
    for part in "qkv":
        for leaf in ("weight", "bias"):
            q, k, v = one[f"model.layers.1.attention.query_key_value.{leaf}"].split([64, 32, 32])
            of = {"q": q, "k": k, "v": v}[part]
            assert parts[f"model.layers.1.self_attn.{part}_proj.{leaf}"].shape == of.shape
            parts[f"model.layers.1.self_attn.{part}_proj.{leaf}"].copy_(of)
    held = [network.layers[1].attention.qkv for network in networks]
    assert torch.equal(held[0].weight, held[1].weight)
    assert held[0].bias is not None
    assert held[1].bias is not None
    assert torch.equal(held[0].bias, held[1].bias)


@pytest.mark.parametrize("head", ["absent", "equal", "other"])
def test_a_tied_head_in_the_file(tmp_path: Path, head: str) -> None:
    directory = written(tmp_path, fields_of("ILLaDAForCausalLM", tie_word_embeddings=True))
    config = read_config(directory)
    made = table.build(config, torch.float32, CPU).published()
    weights = {name: torch.randn(weight.shape) for name, weight in made.items()}
    if head != "absent":
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + (head == "other")
    save_file(weights, directory / "model.safetensors")
    if head == "other":
        with pytest.raises(CheckpointError, match=r"lm_head.weight differs from model.embed_tok"):
            load_network(directory, config, torch.float32, CPU)
    else:
        network = load_network(directory, config, torch.float32, CPU)
        assert torch.equal(network.head(torch.eye(16)), weights["model.embed_tokens.weight"].T)


# ---------------------------------------------------------------- config.json


def test_what_each_architecture_reads(tmp_path: Path) -> None:
    read = {name: read_config(written(tmp_path, fields_of(name))) for name in LLAMA_STYLE}
    shape = {"head_width": 16, "rope_theta": 1e6, "rounds_rotation": True, "num_kv_heads": 1}
    for config in read.values():
        assert {key: getattr(config, key) for key in shape} == shape
    illada, dream, sdar, coder = (read[name] for name in LLAMA_STYLE)
    assert (illada.qkv_bias, illada.qk_norm, illada.reach) == (False, False, Reach())
    assert (dream.qkv_bias, dream.qk_norm, dream.reach) == (True, False, Reach(score_offset=-1))
    assert (sdar.qkv_bias, sdar.qk_norm, sdar.reach) == (False, True, Reach(block_size=4))
    assert (coder.qkv_bias, coder.qk_norm, coder.reach) == (False, False, Reach(block_size=4))
    for name in ("SDARForCausalLM", "StableDiffcoderForCausalLM"):
        fields = fields_of(name, block_size=16)
        assert read_config(written(tmp_path, fields)).reach == Reach(block_size=16)


def test_the_mask_of_illada_is_in_none_of_its_files(tmp_path: Path) -> None:
    assert (
        read_config(written(tmp_path, fields_of("ILLaDAForCausalLM", mask_token_id=None))).mask_id
        == 5
    )
    for name in ("DreamModel", "SDARForCausalLM", "StableDiffcoderForCausalLM"):
        with pytest.raises(CheckpointError, match="mask_token_id is missing"):
            read_config(written(tmp_path, fields_of(name, mask_token_id=None)))


@pytest.mark.parametrize("name", LLAMA_STYLE)
@pytest.mark.parametrize(
    "change",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"use_sliding_window": True},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"layer_norm_eps": 1e-5},
        {"partial_rotary_factor": 0.5},
        {"hidden_act": "gelu"},
        {"num_experts": 8},
        {"use_mrope": True},
        {"is_causal": True},
        {"never_heard_of": 3},
        {"num_key_value_heads": 3},
        {"rms_norm_eps": None},
        {"tie_word_embeddings": "no"},
        {"block_size": 0} | {"num_attention_heads": 0},
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    tmp_path: Path, name: str, change: dict[str, object]
) -> None:
    with pytest.raises(CheckpointError, match=str(list(change)[-1])):
        read_config(written(tmp_path, fields_of(name, **change)))


def test_a_window_that_is_switched_off_is_none(tmp_path: Path) -> None:
    fields = fields_of("DreamModel", sliding_window=4096, use_sliding_window=False)
    assert read_config(written(tmp_path, fields)).reach == Reach(score_offset=-1)
    with pytest.raises(CheckpointError, match="sliding_window"):
        read_config(written(tmp_path, fields_of("LLaDAModelLM", sliding_window=4096)))


def test_the_width_of_heads_is_implied_only_where_the_class_implies_it(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, fields_of("DreamModel", head_dim=None)))
    assert config.head_width == 8
    with pytest.raises(CheckpointError, match="head_dim is missing"):
        read_config(written(tmp_path, fields_of("SDARForCausalLM", head_dim=None)))


# ---------------------------------------------------------------- recorded logits


def logits(network: Network, ids: Tensor, reach: Reach) -> Tensor:
    """Raw logits of every row: those of Dream are not shifted yet."""
    config, length = network.config, ids.numel()
    rows = Rows.spans([(0, 0, length)], CPU, reaches=[reach])
    layers = EagerLayers(network, KVStore(config, length, network.dtype, CPU))
    x_ND = network.embed(ids.flatten().long())
    ((_, x_ND),) = layers.run(1, config.num_layers, x_ND, rows, every=False)
    return network.head(network.final_norm(x_ND))


@pytest.mark.parametrize(
    "folder", ["dream", "illada", "sdar", "stable_diffcoder", "llada_moe", "llada2"]
)
def test_logits_are_those_that_published_code_gave(golden_dir: Path, folder: str) -> None:
    network = skipstone.load(golden_dir / folder, device="cpu").network
    recorded = load_file(golden_dir / folder / "expected.safetensors")
    cases = [name.removesuffix("ids") for name in recorded if name.endswith("ids")]
    seen = 0
    for case in cases:
        reach = network.config.reach
        if f"{case}block" in recorded:
            reach = replace(reach, block_size=int(recorded[f"{case}block"]))
        if f"{case}logits" in recorded and case != "block_":
            found = logits(network, recorded[f"{case}ids"], reach)
            right = recorded[f"{case}logits"].view(found.shape)
            torch.testing.assert_close(found, right, rtol=0, atol=1e-4)
            seen += 1
    assert seen >= 2


def test_logits_of_a_block_over_kept_keys_are_those_that_published_code_gave(
    golden_dir: Path,
) -> None:
    network = skipstone.load(golden_dir / "dream", device="cpu").network
    recorded = load_file(golden_dir / "dream" / "expected.safetensors")
    config, ids, length = network.config, recorded["full_ids"].flatten(), 40
    layers = EagerLayers(network, KVStore(config, length, network.dtype, CPU))

    def forward(ids_N: Tensor, start: int, stop: int) -> Tensor:
        rows = Rows.spans([(0, start, stop)], CPU, lengths=[length], reaches=[config.reach])
        x_ND = network.embed(ids_N)
        ((_, x_ND),) = layers.run(1, config.num_layers, x_ND, rows, every=False)
        return network.head(network.final_norm(x_ND))

    forward(ids, 0, length)
    found = forward(recorded["block_ids"].flatten(), 24, 32)
    right = recorded["block_logits"].view(found.shape)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-4)


def test_every_config_names_its_entry() -> None:
    for config in CONFIGS.values():
        assert isinstance(config, ModelConfig)
        assert table.entry_of(config).name == config.architecture
