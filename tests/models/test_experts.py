"""Mixtures of experts: routers as recorded, files as published, what is refused, and the cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import skipstone
from skipstone import CosineSkip, Engine, Settings, Threshold
from skipstone.bench.random_model import random_model
from skipstone.cli.main import run
from skipstone.engine.roofline import CARDS, Work, bound, saving
from skipstone.errors import CheckpointError
from skipstone.models import table
from skipstone.models.base import ModelConfig, MoEConfig
from skipstone.models.checkpoint import load_network, stored_dtype
from skipstone.models.config import read_config
from skipstone.models.fingerprint import fingerprint
from skipstone.models.llada2 import LLADA2
from skipstone.models.llada_moe import LLADA_MOE
from skipstone.models.parts.decoder import Decoder
from skipstone.models.parts.moe import MoE
from skipstone.models.shapes import LLADA2_MINI, LLADA_8B, LLADA_MOE_7B, SHAPES
from skipstone.ops.model import dispatch as ops
from skipstone.ops.model.reference_experts import Router, choose
from skipstone.testing.tiny import tiny_model
from tests.models.test_contracts import CONFIGS
from tests.models.test_table import CPU, logits

SOFTMAX, GROUPED = CONFIGS["experts"], CONFIGS["grouped experts"]


class Routed:
    """Listens to what routers are asked and what they say, layer by layer."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.logits = list[Tensor]()
        self.chosen = list[ops.Chosen]()
        plain = ops.choose

        def heard(
            logits_NX: Tensor,
            bias_X: Tensor | None,
            router: Router,
            counts_N: Tensor | None = None,
        ) -> ops.Chosen:
            self.logits.append(logits_NX)
            self.chosen.append(plain(logits_NX, bias_X, router, counts_N))
            return self.chosen[-1]

        patch.setattr(ops, "choose", heard)


def moe_of(config: ModelConfig) -> MoEConfig:
    assert config.moe is not None
    return config.moe


def mixture(network: object, layer: int) -> MoE:
    assert isinstance(network, Decoder)
    found = network.layers[layer].mlp
    assert isinstance(found, MoE)
    return found


def rows_apart(found: ops.Chosen, experts: Tensor, weights: Tensor) -> int:
    """How many rows have other experts, or other weights of them, in whatever order."""
    size = int(max(experts.max(), found.expert_NK.max())) + 1
    ours, theirs = (torch.zeros(len(experts), size) for _ in "ab")
    ours.scatter_(1, found.expert_NK.long(), found.weight_NK.float())
    theirs.scatter_(1, experts.long(), weights)
    return int(((ours - theirs).abs() > 1e-5).any(-1).sum())


# ---------------------------------------------------------------- routers as recorded


def test_router_probabilities_of_llada_moe(
    golden_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = load_file(golden_dir / "llada_moe" / "expected.safetensors")
    network = skipstone.load(golden_dir / "llada_moe", device="cpu").network
    routed = Routed(monkeypatch)
    logits(network, recorded["full_ids"], network.config.reach)
    right = recorded["router_probs_layer0"]
    torch.testing.assert_close(routed.logits[0].softmax(-1), right, rtol=0, atol=1e-5)
    best = right.topk(2)
    assert rows_apart(routed.chosen[0], best.indices, best.values) == 0
    # Weights are the probabilities as they are: over their sum, they would be larger.
    assert (routed.chosen[0].weight_NK.sum(-1) < 0.99).all()
    router = replace(moe_of(network.config).router, normalised=True)
    over_sum = choose(routed.logits[0], None, router)
    assert rows_apart(over_sum, best.indices, best.values) == len(right)


@pytest.mark.parametrize("case", "abcd")
def test_chosen_experts_of_llada2(
    golden_dir: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = load_file(golden_dir / "llada2" / "expected.safetensors")
    network = skipstone.load(golden_dir / "llada2", device="cpu").network
    routed = Routed(monkeypatch)
    reach = replace(network.config.reach, block_size=int(recorded[f"{case}.block"]))
    logits(network, recorded[f"{case}.ids"], reach)
    assert len(routed.chosen) == 2
    for layer in (1, 2):
        kind = f"{case}.router.{layer}."
        right = recorded[f"{kind}topk_idx"], recorded[f"{kind}topk_weight"]
        close = routed.logits[layer - 1]
        torch.testing.assert_close(close, recorded[f"{kind}logits"], rtol=0, atol=1e-4)
        assert rows_apart(routed.chosen[layer - 1], *right) == 0
        rule, bias = moe_of(network.config).router, mixture(network, layer).bias_X
        assert bias is not None
        others = {
            "without groups": (bias, replace(rule, groups=1)),
            "without bias": (None, rule),
            "without sum": (bias, replace(rule, normalised=False)),
            "softmax": (bias, replace(rule, scoring="softmax")),
            "a group by its best": (bias, replace(rule, groups=8, top_groups=4)),
        }
        for how, (given, other) in others.items():
            apart = rows_apart(choose(close, given, other), *right)
            assert apart > len(close) / 4, how


@pytest.mark.parametrize("control", ["no groups", "no bias", "no sum", "over sum", "no shared"])
def test_logits_of_another_router_are_not_the_recorded_ones(
    golden_dir: Path, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, case = ("llada_moe", "full_") if control == "over sum" else ("llada2", "a.")
    recorded = load_file(golden_dir / folder / "expected.safetensors")
    network = skipstone.load(golden_dir / folder, device="cpu").network
    reach = network.config.reach
    if f"{case}block" in recorded:
        reach = replace(reach, block_size=int(recorded[f"{case}block"]))
    right = recorded[f"{case}logits"].view(-1, network.config.vocab_size)
    torch.testing.assert_close(
        logits(network, recorded[f"{case}ids"], reach), right, rtol=0, atol=1e-4
    )
    changes = {"no groups": {"groups": 1}, "no sum": {"normalised": False}}
    for layer in range(moe_of(network.config).first_layer, network.config.num_layers):
        moe = mixture(network, layer)
        change = changes.get(control, {"normalised": True} if control == "over sum" else {})
        moe._router = replace(moe._router, **change)  # pyrefly: ignore
        moe.bias_X = None if control == "no bias" else moe.bias_X
        moe.shared = None if control == "no shared" else moe.shared
    assert (logits(network, recorded[f"{case}ids"], reach) - right).abs().max() > 0.1


# ---------------------------------------------------------------- the rule


def test_equal_scores_choose_the_first_expert_and_the_first_group() -> None:
    even = torch.zeros(2, 12)
    assert choose(even, None, Router(3, "softmax")).expert_NK.tolist() == [[0, 1, 2]] * 2
    grouped = Router(3, "sigmoid", groups=4, top_groups=2)
    assert choose(even, None, grouped).expert_NK.tolist() == [[0, 1, 2]] * 2
    bias = torch.zeros(12)
    bias[[7, 8]] = 0.5
    assert choose(even, bias, grouped).expert_NK.tolist() == [[7, 8, 0]] * 2


def test_a_bias_chooses_and_does_not_weigh() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    bias = torch.tensor([0.0, 0.0, 0.0, 5.0])
    found = choose(scores, bias, Router(2, "sigmoid", normalised=True, scale=3.0))
    assert found.expert_NK.tolist() == [[3, 0]]
    weights = scores[0, [3, 0]].sigmoid()
    torch.testing.assert_close(found.weight_NK[0], 3.0 * weights / weights.sum())


def test_a_group_is_as_good_as_its_two_best() -> None:
    # The best expert of all stands beside poor ones.
    scores = torch.tensor([[5.0, -9.0, -9.0, 2.0, 2.0, -9.0]])
    found = choose(scores, None, Router(2, "sigmoid", groups=2, top_groups=1))
    assert sorted(found.expert_NK[0].tolist()) == [3, 4]


def test_router_logits_are_in_float32_whatever_the_dtype() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 64, generator=generator).bfloat16()
    gate = torch.randn(7, 64, generator=generator).bfloat16()
    assert torch.equal(ops.router_logits(x, gate), x.float() @ gate.float().T)
    assert ops.router_logits(x.double(), gate.double()).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_row_gives_the_same_beside_any_others(dtype: torch.dtype) -> None:
    moe = mixture(tiny_model(config=GROUPED, dtype=dtype, norm_noise=0.3).network, 2)
    rows = torch.randn(40, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    whole = moe.added(rows, rows)
    for some in ([7], [3, 20, 39], list(range(17))):
        alone = moe.added(rows[some], rows[some])
        # Products of other shapes may be summed otherwise by the library; choices are the same.
        assert torch.equal(moe.route(rows[some]).expert_NK, moe.route(rows).expert_NK[some])
        step = 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(alone, whole[some], rtol=step, atol=step)


def test_rows_that_do_not_count_hit_no_expert() -> None:
    moe = mixture(tiny_model(config=SOFTMAX).network, 1)
    rows = torch.randn(6, 32, generator=torch.Generator().manual_seed(1)).double()
    counts = torch.tensor([True, False, True, True, False, True])
    chosen = moe.route(rows, counts)
    assert (chosen.expert_NK[~counts] == 6).all()
    assert not chosen.weight_NK[~counts].any()
    found = moe.added(rows, rows, counts)
    torch.testing.assert_close(found[counts], moe.added(rows, rows)[counts])
    assert torch.equal(found[~counts], rows[~counts])
    assert torch.equal(moe.added(rows, rows, torch.zeros_like(counts)), rows)


@torch.inference_mode()
def test_rows_that_skip_hit_no_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(config=SOFTMAX, sharpness=6.0, norm_noise=0.3)
    settings = Settings(
        gen_length=24,
        block_length=8,
        unmask=Threshold(0.9),
        skip=CosineSkip(skip_layer_k=2, skip_threshold=0.8),
        eos_stop=False,
    )
    routed = Routed(monkeypatch)
    packed = Engine(model, settings).generate([3, 5, 7, 11, 2])
    skipped = sum(step.skipped_row_layers for step in packed.stats.steps)
    assert skipped > 0
    assert not any((chosen.expert_NK == 6).any() for chosen in routed.chosen)
    # As on a GPU with few rows: those that skip are computed, and what they give is not taken.
    run = Engine(model, settings).start([[3, 5, 7, 11, 2]], batch_size=1)
    run.batch.runner.packs = False
    (done,) = run.decode()
    assert tuple(done.ids_G.tolist()) == tuple(packed.tokens)
    none = sum(int((chosen.expert_NK == 6).all(-1).sum()) for chosen in routed.chosen)
    assert none == skipped


# ---------------------------------------------------------------- files


def published(config: ModelConfig) -> dict[str, Tensor]:
    made = table.build(config, torch.float32, CPU).published()
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(w.shape, generator=generator) for name, w in made.items()}


@pytest.mark.parametrize("config", [SOFTMAX, GROUPED], ids=["LLaDA-MoE", "LLaDA2"])
def test_weights_of_experts_go_straight_into_their_place(
    tmp_path: Path, config: ModelConfig
) -> None:
    weights = published(config)
    names = sorted(weights)
    # Experts of one layer lie in several shards.
    for i in range(3):
        save_file({n: weights[n] for n in names[i::3]}, tmp_path / f"model-{i}.safetensors")
    index = {name: f"model-{i % 3}.safetensors" for i, name in enumerate(names)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    network = load_network(tmp_path, config, torch.float32, CPU)
    count, hidden = moe_of(config).num_experts, moe_of(config).expert_width
    for layer in range(moe_of(config).first_layer, config.num_layers):
        held = mixture(network, layer)
        for expert in range(count):
            place = f"model.layers.{layer}.mlp.experts.{expert}."
            gate, up, down = (weights[f"{place}{p}_proj.weight"] for p in ("gate", "up", "down"))
            assert torch.equal(held.gate_up_XMD[expert, :hidden], gate)
            assert torch.equal(held.gate_up_XMD[expert, hidden:], up)
            assert torch.equal(held.down_XDM[expert], down)
    assert fingerprint(network.published()) == fingerprint(weights)
    weights[names[0]].view(-1)[0] += 1
    assert fingerprint(network.published()) != fingerprint(weights)


@pytest.mark.parametrize("change", ["missing", "too many", "other shape", "NaN"])
def test_an_expert_that_is_not_right_is_named(tmp_path: Path, change: str) -> None:
    weights = published(GROUPED)
    name = "model.layers.2.mlp.experts.11.down_proj.weight"
    if change == "missing":
        del weights[name]
    elif change == "too many":
        name = name.replace("11", "12")
        weights[name] = torch.zeros(32, 20)
    elif change == "other shape":
        weights[name] = torch.zeros(20, 32)
    else:
        weights[name][0, 0] = torch.nan
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=name):
        load_network(tmp_path, GROUPED, torch.float32, CPU)


def test_too_many_experts_for_a_file_are_refused_before_they_are_listed(tmp_path: Path) -> None:
    save_file(published(GROUPED), tmp_path / "model.safetensors")
    config = replace(GROUPED, moe=replace(moe_of(GROUPED), num_experts=4096))
    with pytest.raises(CheckpointError, match="too few for the 4096 experts in each layer"):
        load_network(tmp_path, config, torch.float32, CPU)


def test_a_router_may_be_stored_in_float32_beside_bfloat16(tmp_path: Path) -> None:
    weights = {name: weight.bfloat16() for name, weight in published(GROUPED).items()}
    bias, gate = (f"model.layers.1.mlp.gate.{leaf}" for leaf in ("expert_bias", "weight"))
    exact = torch.linspace(0.1, 0.2, 12)
    weights |= {bias: exact, gate: weights[gate].float()}
    save_file(weights, tmp_path / "model.safetensors")
    assert stored_dtype(tmp_path, LLADA2.names) == torch.bfloat16
    network = load_network(tmp_path, GROUPED, torch.bfloat16, CPU)
    assert torch.equal(network.published()[bias], exact)
    weights["model.norm.weight"] = torch.ones(32)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="mixed dtypes"):
        stored_dtype(tmp_path, LLADA2.names)


# ---------------------------------------------------------------- config.json


def fields_of(name: str, golden_dir: Path, **changes: object) -> dict[str, object]:
    """A recorded config.json; None takes a key away."""
    fields = json.loads((golden_dir / name / "config.json").read_text()) | changes
    return {key: value for key, value in fields.items() if key not in changes or value is not None}


def read(directory: Path, fields: dict[str, object]) -> ModelConfig:
    (directory / "config.json").write_text(json.dumps(fields))
    return read_config(directory)


def test_the_class_tells_llada_moe_from_dense_llada(tmp_path: Path, golden_dir: Path) -> None:
    fields = fields_of("llada_moe", golden_dir, mask_token_id=500)
    assert fields["model_type"] == table.ARCHITECTURES["LLaDAModelLM"].model_type
    assert read(tmp_path, fields).architecture == LLADA_MOE.name
    with pytest.raises(CheckpointError, match="unsupported settings"):
        read(tmp_path, fields | {"architectures": ["LLaDAModelLM"]})


def test_a_mask_that_only_the_tokenizer_names(tmp_path: Path, golden_dir: Path) -> None:
    fields = fields_of("llada_moe", golden_dir)
    assert "mask_token_id" not in fields
    with pytest.raises(CheckpointError, match="mask_token_id is missing"):
        read(tmp_path, fields)
    added = [{"id": 77, "content": "<|mask|>"}, {"id": 78, "content": "<m>"}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    assert read(tmp_path, fields).mask_id == 77
    named: dict[str, object] = {"mask_token": {"content": "<m>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    assert read(tmp_path, fields).mask_id == 78
    named["added_tokens_decoder"] = {"79": {"content": "<m>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    assert read(tmp_path, fields).mask_id == 79
    assert read(tmp_path, fields | {"mask_token_id": 500}).mask_id == 500


def test_what_is_read_of_llada2(tmp_path: Path, golden_dir: Path) -> None:
    config = read(tmp_path, fields_of("llada2", golden_dir))
    assert (config.rotary_width, config.reach.block_size) == (16, 32)
    assert read(tmp_path, fields_of("llada2", golden_dir, block_size=64)).reach.block_size == 64
    router = Router(4, "sigmoid", normalised=True, scale=2.5, groups=4, top_groups=2)
    assert moe_of(config) == MoEConfig(
        num_experts=16,
        expert_width=32,
        router=router,
        choice_bias=True,
        shared_width=32,
        first_layer=1,
    )
    # Experts that all rows share are one MLP, as wide as all of them.
    for count in (0, 2):
        shared = read(tmp_path, fields_of("llada2", golden_dir, num_shared_experts=count))
        assert moe_of(shared).shared_width == count * 32
    one = read(tmp_path, fields_of("llada2", golden_dir, num_experts_per_tok=1))
    assert not moe_of(one).router.normalised


REFUSED: Sequence[tuple[str, dict[str, object]]] = [
    ("llada_moe", {"clip_qkv": 8.0}),
    ("llada_moe", {"qk_layernorm": False}),
    ("llada_moe", {"moe_router_enable_expert_bias": True}),
    ("llada_moe", {"moe_router_score_function": "sigmoid"}),
    ("llada_moe", {"shared_expert_intermediate_size": 64}),
    ("llada_moe", {"router_num_group": 2}),
    ("llada_moe", {"router_topk_group": 2}),
    ("llada_moe", {"moe_layer_freq": [0, 1, 1, 1]}),
    ("llada_moe", {"moe_layer_freq": [1, 1, 1]}),
    ("llada_moe", {"num_experts_per_tok": 9}),
    ("llada_moe", {"num_experts": None}),
    ("llada_moe", {"num_experts": 1 << 20}),
    ("llada_moe", {"expert_intermediate_size": 0}),
    ("llada_moe", {"partial_rotary_factor": 0.5}),
    ("llada_moe", {"attention_bias": True}),
    ("llada_moe", {"n_group": 4}),
    ("llada2", {"use_bias": None}),
    ("llada2", {"use_bias": True}),
    ("llada2", {"use_qkv_bias": True}),
    ("llada2", {"use_qk_norm": False}),
    ("llada2", {"use_rmsnorm": False}),
    ("llada2", {"score_function": "softmax"}),
    ("llada2", {"norm_topk_prob": False}),
    ("llada2", {"moe_router_enable_expert_bias": False}),
    ("llada2", {"router_dtype": "bf16"}),
    ("llada2", {"norm_head": True}),
    ("llada2", {"norm_softmax": True}),
    ("llada2", {"n_group": 3}),
    ("llada2", {"n_group": 16}),
    ("llada2", {"topk_group": 5}),
    ("llada2", {"topk_group": 1, "num_experts_per_tok": 5}),
    ("llada2", {"partial_rotary_factor": None}),
    ("llada2", {"partial_rotary_factor": 1.5}),
    ("llada2", {"partial_rotary_factor": 0.1}),
    ("llada2", {"routed_scaling_factor": 0}),
    ("llada2", {"moe_shared_expert_intermediate_size": 48}),
    ("llada2", {"use_sliding_window": True}),
    ("llada2", {"rope_scaling": {"type": "yarn", "factor": 4.0}}),
    ("llada2", {"num_nextn_predict_layers": 1}),
    ("llada2", {"expert_choice": "rows"}),
]


@pytest.mark.parametrize(("name", "change"), REFUSED)
def test_what_is_not_computed_is_refused_by_name(
    tmp_path: Path, golden_dir: Path, name: str, change: dict[str, object]
) -> None:
    fields = fields_of(name, golden_dir, mask_token_id=500)
    read(tmp_path, fields)
    changed = {k: v for k, v in (fields | change).items() if v is not None or k not in change}
    with pytest.raises(CheckpointError, match=next(iter(change))):
        read(tmp_path, changed)


# ---------------------------------------------------------------- decoding and cost


@pytest.mark.parametrize("name", ["llada_moe", "llada2"])
def test_a_recorded_checkpoint_decodes_alike_by_every_runner(golden_dir: Path, name: str) -> None:
    model = skipstone.load(golden_dir / name, device="cpu")
    settings = Settings(gen_length=16, block_length=8, eos_stop=False)
    prompts = [[3, 5, 7, 11, 2], list(range(20, 51))]
    alone = [Engine(model, settings).generate(prompt).tokens for prompt in prompts]
    for runner in ("eager", "graph"):
        found = Engine(model, settings, runner=runner).generate_batch(prompts)
        assert [result.tokens for result in found] == alone


def test_rows_hit_few_experts_or_all() -> None:
    moe = moe_of(LLADA2_MINI)
    assert moe.hit(1) == pytest.approx(8)
    assert 160 < moe.hit(32) < 166
    assert moe.hit(10_000) == pytest.approx(256)
    # As its authors call them: 16B with 1.4B, and 7B with 1B of them used by a row.
    assert LLADA2_MINI.num_parameters == pytest.approx(16.3e9, rel=0.01)
    assert LLADA_MOE_7B.num_parameters == pytest.approx(7.4e9, rel=0.01)
    for config, used in ((LLADA2_MINI, 0.8e9), (LLADA_MOE_7B, 1.1e9), (LLADA_8B, 7.5e9)):
        layers = range(config.num_layers)
        found = sum(config.weights_used(layer) for layer in layers)
        assert found == pytest.approx(used, rel=0.15)
        read = [sum(config.weights_read(layer, rows) for layer in layers) for rows in (1, 32, 1024)]
        assert read == sorted(read)
        assert read[0] == pytest.approx(found)
        assert (read[2] > 5 * read[0]) == (config.moe is not None)


def test_the_roofline_reads_the_experts_that_are_hit() -> None:
    card = CARDS["h100"]
    moe, heads = moe_of(LLADA_MOE_7B), 4 * 2048 * 2048
    hit = 64 * (1 - (7 / 8) ** 32)
    weights = 16 * (heads + 64 * 2048 + hit * 3 * 2048 * 1024) + 157184 * 2048
    kv = 16 * 512 * 2 * 2048
    least = bound(card, LLADA_MOE_7B, Work(1, 32, 512))
    assert least.seconds == pytest.approx(2 * (weights + kv) / card.bandwidth, rel=1e-3)
    dense = replace(LLADA_MOE_7B, moe=None, mlp_width=64 * 1024)
    # Of many rows, 8 of 64 experts are computed, and not all.
    assert (
        bound(card, LLADA_MOE_7B, Work(512, 32, 512)).seconds
        < bound(card, dense, Work(512, 32, 512)).seconds / 2
    )
    # Rows that leave hit no expert: a skip saves reading, which it cannot for a dense model.
    work = Work(1, 32, 512, 8, 0.25)
    assert saving(card, LLADA2_MINI, work) > 1.5
    assert saving(card, LLADA_8B, work) < 1.01
    assert moe.first_layer == 0


def test_shapes_have_as_many_weights_as_what_was_published() -> None:
    """Of Dream and SDAR: as the models that they were made from, Qwen2.5-7B and Qwen3-8B."""
    found = {name: SHAPES[name].num_parameters for name in ("llada-8b", "dream-7b", "sdar-8b")}
    assert found == {
        "llada-8b": 8_015_581_184,
        "dream-7b": 7_615_616_512,
        "sdar-8b": 8_190_735_360,
    }


@pytest.mark.parametrize("name", SHAPES)
def test_the_command_knows_the_shapes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["roofline", "--model", name, "--batch", "1", "--skip-layer-k", "4"]) == 0
    assert f"{name} on h100" in capsys.readouterr().out


@pytest.mark.parametrize("config", [SOFTMAX, GROUPED], ids=["LLaDA-MoE", "LLaDA2"])
def test_bench_makes_a_model_of_random_experts(config: ModelConfig) -> None:
    model = random_model("random", config, CPU, torch.float32)
    weights = model.network.published()
    assert all(w.isfinite().all() for w in weights.values())
    router = [w for name, w in weights.items() if name.endswith("mlp.gate.weight")]
    assert len(router) == config.num_layers - moe_of(config).first_layer
    assert all(w.std() > 0.01 for w in router)
    result = Engine(model, Settings(gen_length=8, block_length=8)).generate([1, 2, 3])
    assert config.mask_id not in result.tokens
