"""The foreign models compute what ours compute, and the correct decoders give our tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from skipstone import DualCache, Engine, Fixed, Model, NoCache, PrefixCache, Threshold
from skipstone.cache import CachePolicy
from skipstone.memory.store import KVStore
from skipstone.rows import Rows
from skipstone.testing.tiny import EOS, MASK, tiny_model
from specimens import bare, decode, hf_style, llada_style
from tests.helpers.watching import head_of, uneven_model

PROMPT = [3, 1, 4, 1, 5, 9, 2]
STYLES: dict[str, Callable[[Model], nn.Module]] = {
    "llada": llada_style.from_model,
    "hf": hf_style.from_model,
    "bare": bare.from_model,
}
MODELS = [uneven_model(5), uneven_model(1, num_kv_heads=2)]
each_style = pytest.mark.parametrize("style", STYLES)
each_model = pytest.mark.parametrize("model", MODELS, ids=["mha", "gqa"])
each_threshold = pytest.mark.parametrize("threshold", [None, 0.5])


def prompt() -> Tensor:
    return torch.tensor([PROMPT])


def our_states(model: Model, ids: Tensor) -> list[Tensor]:
    """Embedding, states after each layer, and the normed last one, by our own network."""
    network = model.network
    length = ids.shape[1]
    rows = Rows.spans([(0, 0, length)], ids.device)
    store = KVStore(network.config, length, network.dtype, ids.device)
    angles = network.angles(rows)
    states = [network.embed(ids[0])]
    for layer in range(network.config.num_layers):
        states.append(network.layer(layer, states[-1], angles, rows, store))
    return [*states, network.final_norm(states[-1])]


def ours(model: Model, cache: CachePolicy, threshold: float | None) -> list[int]:
    unmask = Fixed() if threshold is None else Threshold(threshold)
    engine = Engine(
        model, cache=cache, unmask=unmask, gen_length=16, block_length=8, eos_stop=False
    )
    return [*PROMPT, *engine.generate(PROMPT).tokens]


@each_model
@each_style
def test_a_foreign_model_gives_our_logits(style: str, model: Model) -> None:
    ids = torch.randint(0, MASK, (1, 23), generator=torch.Generator().manual_seed(5))
    out = STYLES[style](model)(ids)
    logits = out if isinstance(out, Tensor) else out.logits
    expected = model.network.head(our_states(model, ids)[-1])
    torch.testing.assert_close(logits[0], expected, rtol=0, atol=1e-9)
    other = tiny_model(7)
    assert not torch.allclose(logits[0], other.network.head(our_states(other, ids)[-1]), atol=1.0)


@each_model
@pytest.mark.parametrize("style", ["llada", "hf"])
def test_hidden_states_are_the_embedding_each_layer_and_the_norm(style: str, model: Model) -> None:
    ids = torch.randint(0, MASK, (1, 9), generator=torch.Generator().manual_seed(5))
    found = STYLES[style](model)(ids, output_hidden_states=True).hidden_states
    expected = our_states(model, ids)
    assert len(found) == model.config.num_layers + 1
    for mine, theirs in zip([*expected[:-2], expected[-1]], found, strict=True):
        torch.testing.assert_close(theirs[0], mine, rtol=0, atol=1e-9)


@each_model
@each_threshold
@each_style
def test_decoding_without_cache_gives_our_tokens(
    style: str, threshold: float | None, model: Model
) -> None:
    canvas = decode.plain(STYLES[style](model), prompt(), MASK, threshold=threshold)
    assert canvas[0].tolist() == ours(model, NoCache(), threshold)


@each_model
@each_threshold
def test_a_dual_cache_gives_our_tokens(threshold: float | None, model: Model) -> None:
    canvas = decode.dual_cache(llada_style.from_model(model), prompt(), threshold=threshold)
    assert canvas[0].tolist() == ours(model, DualCache(), threshold)
    assert canvas[0].tolist() != ours(model, NoCache(), threshold)


@each_model
@each_threshold
def test_a_prefix_cache_gives_our_tokens(threshold: float | None, model: Model) -> None:
    canvas = decode.prefix_cache(hf_style.from_model(model), prompt(), threshold=threshold)
    assert canvas[0].tolist() == ours(model, PrefixCache(), threshold)
    assert canvas[0].tolist() != ours(model, NoCache(), threshold)


def test_positions_can_be_given_in_three_ways() -> None:
    net = hf_style.from_model(MODELS[0])
    ids = torch.tensor([[5, 6, 7, 8]])
    past = net(prompt(), use_cache=True).past_key_values
    counted = net(ids, past_key_values=past).logits
    where = torch.arange(7, 11)
    assert torch.equal(net(ids, past_key_values=past, cache_position=where).logits, counted)
    assert torch.equal(net(ids, past_key_values=past, position_ids=where[None]).logits, counted)
    assert not torch.equal(
        net(ids, past_key_values=past, position_ids=where[None] - 1).logits, counted
    )


def test_hidden_keys_are_not_seen() -> None:
    net = hf_style.from_model(MODELS[0])
    visible = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
    masked = net(prompt(), attention_mask=visible).logits[:, :5]
    torch.testing.assert_close(masked, net(prompt()[:, :5]).logits, rtol=0, atol=1e-9)


def test_a_skip_threshold_of_one_is_the_run_without_skip() -> None:
    plain = decode.dual_cache(llada_style.from_model(MODELS[0]), prompt())
    aligned = llada_style.from_model(MODELS[0], aligned=True)
    never = decode.dual_cache(aligned, prompt(), skip_layer_k=3)
    often = decode.dual_cache(
        aligned, prompt(), skip_layer_k=3, skip_threshold=0.5, skip_outlier=0.0
    )
    assert torch.equal(never, plain)
    assert not torch.equal(often, plain)


@pytest.mark.parametrize("fault", ["replace_off_by_one", "no_refresh"])
def test_a_fault_of_the_dual_cache_changes_tokens(fault: decode.DualFault) -> None:
    nets = [llada_style.from_model(uneven_model(seed)) for seed in range(4)]
    correct, faulty = (
        [decode.dual_cache(net, prompt(), fault=f).tolist() for net in nets]
        for f in ("none", fault)
    )
    assert correct != faulty


def test_faults_of_the_budget_leave_masks() -> None:
    net = llada_style.from_model(MODELS[0])
    faulty = decode.dual_cache(net, prompt(), threshold=0.999, fault="budget")
    assert (faulty == MASK).sum() > 0
    assert (decode.plain(net, prompt(), MASK, threshold=0.999, finish=False) == MASK).sum() > 0
    assert (decode.dual_cache(net, prompt(), threshold=0.999) == MASK).sum() == 0


def test_breaking_at_the_first_eos_leaves_masks() -> None:
    model = tiny_model(0)
    head_of(model)[EOS] *= 4.0
    net = llada_style.from_model(model)
    assert (decode.dual_cache(net, prompt()) == EOS).any()
    faulty = decode.dual_cache(net, prompt(), fault="eos_break")
    assert (faulty == MASK).any()


def test_wrong_position_ids_change_tokens() -> None:
    nets = [hf_style.from_model(uneven_model(seed)) for seed in range(4)]
    correct, faulty = (
        [decode.prefix_cache(net, prompt(), shift=shift).tolist() for net in nets]
        for shift in (0, -7)
    )
    assert correct != faulty


def test_a_confidence_in_bfloat16_changes_the_order() -> None:
    nets = [bare.from_model(tiny_model(seed, sharpness=0.5)) for seed in range(4)]
    exact = [decode.plain(net, prompt(), MASK) for net in nets]
    coarse = [decode.plain(net, prompt(), MASK, confidence_dtype=torch.bfloat16) for net in nets]
    assert any(not torch.equal(a, b) for a, b in zip(exact, coarse, strict=True))


def test_a_shared_cache_spoils_the_second_of_two_steps() -> None:
    net = llada_style.from_model(MODELS[0], aligned=True)
    first, second = decode.single_step_twice(net, prompt())
    fresh_first, fresh_second = decode.single_step_twice(net, prompt(), separate=True)
    assert torch.equal(first, fresh_first)
    assert not torch.equal(second, fresh_second)
