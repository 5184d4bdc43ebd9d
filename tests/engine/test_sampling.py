"""top_p and top_k: which tokens are possible, and what the scores are of then."""

from __future__ import annotations

from math import inf

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from skipstone import Engine, Fixed, Settings, diagnose
from skipstone.errors import ConfigError
from skipstone.ops.decide import reference
from skipstone.ops.decide.reference import Cut
from skipstone.tracing import Recorder
from tests.helpers.watching import prompt_of, uneven_model

MASK = 0
BASE = Settings(unmask=Fixed(), gen_length=12, block_length=6, eos_stop=False)


def published_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Dream's ``top_p_logits``."""
    found, index = torch.sort(logits, descending=True)
    remove = torch.cumsum(found.softmax(-1), dim=-1) > top_p
    remove[..., 1:] = remove[..., :-1].clone()
    remove[..., 0] = 0
    mask = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, index, remove)
    return logits.masked_fill(mask, torch.finfo(logits.dtype).min)


def published_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Dream's ``top_k_logits``."""
    top_k = min(top_k, logits.size(-1))
    remove = logits < torch.topk(logits, top_k)[0][..., -1, None]
    return logits.masked_fill(remove, torch.finfo(logits.dtype).min)


@hypothesis_settings(deadline=None, derandomize=True, max_examples=200)
@given(
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.2, 1.0, 2.5]),
    st.sampled_from([None, 0.01, 0.5, 0.9, 1.0]),
    st.sampled_from([None, 1, 3, 10, 500]),
    st.booleans(),
)
def test_what_is_left_is_what_published_code_leaves(
    seed: int, temperature: float, top_p: float | None, top_k: int | None, tied: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 24, generator=generator, dtype=torch.float64) * 3
    if tied:
        logits = logits.round()
    wanted = logits.clone()
    wanted = wanted / (temperature or 1.0)
    possible = wanted.clone()
    possible[:, MASK] = -inf
    best_41 = possible.argmax(-1, keepdim=True)
    if top_p is not None and top_p < 1:
        wanted = published_top_p(wanted, top_p)
    if top_k is not None:
        wanted = published_top_k(wanted, top_k)
    # Where published code would be left with the mask alone, the best token stays.
    wanted = wanted.scatter(-1, best_41, possible.gather(-1, best_41))
    right = wanted.softmax(-1)
    whole = torch.special.entr(right).sum(-1)
    right[:, MASK] = 0
    cuts = [Cut(3, temperature or 1.0, top_p, top_k), Cut(1, temperature or 1.0, top_p, top_k)]
    found = reference.score(logits, MASK, None, entropy=True, cuts=cuts)
    assert found.entropy_N is not None
    best = right.topk(2).values
    if not (tied and top_p is not None):
        # Among equals published code keeps any; here the lowest id comes first.
        torch.testing.assert_close(found.confidence_N, best[:, 0])
        torch.testing.assert_close(found.runner_up_confidence_N, best[:, 1])
        torch.testing.assert_close(found.entropy_N, whole)
    assert (found.token_N != MASK).all()


def test_the_token_that_crosses_the_bound_stays_and_ties_with_the_last_do() -> None:
    logits = torch.tensor([[0.0, 0.5, 0.3, 0.1, 0.1]], dtype=torch.float64).log()
    for top_p, top_k, left in ((0.45, None, [1]), (0.6, None, [1, 2]), (None, 3, [1, 2, 3, 4])):
        kept = Cut(1, 1.0, top_p, top_k).of(logits, 0).isfinite()
        assert kept[0].nonzero()[:, 0].tolist() == left


def test_the_best_token_stays_beside_a_mask_that_cuts_all_others_off() -> None:
    logits = torch.tensor([[0.6, 0.1, 0.3]], dtype=torch.float64).log()
    found = reference.score(logits, 0, None, cuts=[Cut(1, 1.0, None, 1)])
    assert found.token_N.tolist() == [2]
    assert found.confidence_N.item() == pytest.approx(1 / 3)


def confidences(settings: Settings) -> list[list[float]]:
    recorder = Recorder()
    Engine(uneven_model(2), settings).generate(prompt_of(0, 5), observer=recorder)
    return [step.candidates.confidence.tolist() for step in recorder.records[0].steps]


def test_at_temperature_0_the_confidence_is_that_of_what_is_left() -> None:
    plain, cut, one = (confidences(BASE.replace(top_k=k)) for k in (None, 3, 1))
    assert all(c > p for c, p in zip(cut[0], plain[0], strict=True))
    assert {c for step in one for c in step} == {1.0}
    assert confidences(BASE.replace(top_p=1.0)) == plain


def test_only_what_is_left_is_drawn() -> None:
    model, prompt = uneven_model(2), prompt_of(0, 5)
    # One at a time: with a single token left every confidence is 1, which changes the order.
    from_the_left = BASE.replace(block_length=1)
    greedy = Engine(model, from_the_left).generate(prompt).tokens
    free = from_the_left.replace(temperature=5.0, seed=1)
    for hot in (free.replace(top_k=1), free.replace(top_p=1e-6)):
        assert Engine(model, hot).generate(prompt).tokens == greedy
    assert Engine(model, free).generate(prompt).tokens != greedy


def test_requests_that_cut_otherwise_share_a_batch() -> None:
    model = uneven_model(2)
    engine = Engine(model, BASE, slots=4)
    asked = [
        BASE,
        BASE.replace(top_p=0.7),
        BASE.replace(top_k=2, temperature=0.8, seed=4),
        BASE.replace(temperature=0.8, seed=4),
        BASE.replace(top_p=0.9, top_k=5, temperature=1.5, seed=1),
    ]
    names = ("top_p", "top_k", "temperature", "seed")
    prompts = [prompt_of(seed, 4 + seed) for seed in range(len(asked))]
    handles = [
        engine.submit(prompt, **{name: getattr(own, name) for name in names})
        for prompt, own in zip(prompts, asked, strict=True)
    ]
    for handle, prompt, own in zip(handles, prompts, asked, strict=True):
        assert handle.result(60).tokens == Engine(model, own).generate(prompt).tokens


@pytest.mark.parametrize("cut", [BASE.replace(top_p=0.2), BASE.replace(top_k=2)], ids=repr)
def test_a_diagnosis_names_what_is_left_out(cut: Settings) -> None:
    engines = [Engine(uneven_model(2), settings) for settings in (BASE, cut)]
    runs = [Recorder("full"), Recorder("full")]
    for engine, recorder in zip(engines, runs, strict=True):
        engine.generate(prompt_of(0, 5), observer=recorder)
    said = str(diagnose(*runs, engine_a=engines[0], engine_b=engines[1]))
    assert "cause: other tokens are left out before one is chosen [sampler]" in said
    assert "proof: necessary and sufficient" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"top_p": 0.0}, "top_p is 0.0, must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"top_k": 0}, "top_k is 0, must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BASE.replace(**changes)  # type: ignore[arg-type]


def test_a_bound_that_leaves_nothing_out_is_said_to_be_idle() -> None:
    assert "top_p=1.0 has no effect" in BASE.replace(top_p=1.0).idle()[0]
    assert not BASE.replace(top_p=0.9).idle()
