"""The laws of the design, one group of tests for each, with controls that must differ.

Laws that concern a batch, the cost of a skip or recorded truth have more tests in their own files.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from skipstone import CosineSkip, DualCache, Engine, Fixed, Model, NoCache, PrefixCache
from skipstone.cache import CachePolicy
from skipstone.canvas import Geometry, StepContext
from skipstone.engine import Settings
from skipstone.engine.observe import StepView, Taps
from skipstone.errors import StalledError
from skipstone.ops.decide import reference
from skipstone.policies import CACHE
from skipstone.skip import NoSkip
from skipstone.testing.tiny import MASK, tiny_model
from skipstone.unmask import Factor, Scores, Threshold, UnmaskPolicy
from tests.helpers.watching import (
    BASE,
    CACHES,
    LOW,
    Looking,
    Watcher,
    head_of,
    prompt_of,
    uneven_model,
    watch,
)

NEVER = CosineSkip(skip_layer_k=3, skip_threshold=1.0)
SEEDS = range(4)
each_cache = pytest.mark.parametrize("cache", CACHES, ids=CACHE.spell)


def tokens_of(base: Settings) -> list[tuple[int, ...]]:
    engines = [Engine(uneven_model(seed), base) for seed in SEEDS]
    return [e.generate(prompt_of(seed, 7)).tokens for seed, e in enumerate(engines)]


# Law 1: positions travel with rows.


def cosines(now_ND: Tensor, before_ND: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(now_ND, before_ND, dim=-1).clamp(max=1.0)


def test_law_1_similarity_compares_equal_positions() -> None:
    before: list[dict[int, Tensor]] = []
    firsts = list[tuple[Tensor, Tensor, Tensor]]()

    def look(view: StepView) -> None:
        states = [view.states[layer].x_ND for layer in (1, 2)]
        if view.skip is not None and view.context.only.step == 1:
            # The step before computed the whole canvas, this one the block alone.
            pos = view.rows.position.tolist()
            aligned = torch.stack(
                [
                    cosines(now, torch.stack([by_position[p] for p in pos]))
                    for now, by_position in zip(states, before, strict=True)
                ]
            )
            by_row = torch.stack(
                [
                    cosines(now, torch.stack([by_position[n] for n in range(len(pos))]))
                    for now, by_position in zip(states, before, strict=True)
                ]
            )
            firsts.append((view.skip.similarity_SN.clone(), aligned, by_row))
        before[:] = [dict(zip(view.rows.position.tolist(), x, strict=True)) for x in states]

    skip = CosineSkip(3, 0.7, 0.0, similarity_dtype="float64")
    engine = Engine(uneven_model(1), BASE, skip=skip)
    engine.generate(prompt_of(1, 7), observer=Looking(look, Taps(states=(1, 2))))
    assert len(firsts) == 3
    for told, aligned, by_row in firsts:
        assert torch.allclose(told, aligned, atol=1e-12)
        assert (told - by_row).abs().max() > 0.1


# Law 2: what decides is computed in float32 or better, and the dtype is a recorded setting.


def half_run(skip: CosineSkip) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    similarities = list[Tensor]()
    confidences = list[tuple[Tensor, Tensor]]()

    def look(view: StepView) -> None:
        assert view.board.confidence_BG.dtype == torch.float64
        if view.skip is not None:
            similarities.append(view.skip.similarity_SN.flatten().clone())
        assert view.scored is not None
        assert view.logits_NV is not None
        assert view.logits_NV.dtype == torch.bfloat16
        logits = view.logits_NV.clone()
        offsets = torch.from_numpy(view.scored.position) - 7
        told = view.board.confidence_BG[0, offsets]
        confidences.append((told, logits))

    engine = Engine(tiny_model(2, dtype=torch.bfloat16), BASE, skip=skip)
    engine.generate(prompt_of(2, 7), observer=Looking(look, Taps(logits=True)))
    return similarities, confidences


def on_grid(values: list[Tensor]) -> bool:
    near = torch.cat(values)
    near = near[(near > 0.5) & (near < 1)] * 256
    assert near.numel() > 20
    return bool((near == near.round()).all())


def best_of(logits_NV: Tensor) -> Tensor:
    """The largest probability of a token that may be predicted."""
    probability_NV = logits_NV.softmax(-1)
    probability_NV[:, MASK] = 0
    return probability_NV.amax(-1)


def test_law_2_a_bfloat16_model_is_judged_in_float32() -> None:
    fine, confidences = half_run(CosineSkip(3, 1.0))
    coarse, _ = half_run(CosineSkip(3, 1.0, similarity_dtype="bfloat16"))
    assert not on_grid(fine)
    assert on_grid(coarse)
    worst = 0.0
    for told, logits in confidences:
        wide = best_of(logits.double())
        assert torch.allclose(told, wide, rtol=1e-12)
        worst = max(worst, float((told - best_of(logits).double()).abs().max()))
    assert worst > 1e-4


def test_law_2_the_dtype_is_recorded() -> None:
    settings = Settings(skip=CosineSkip(similarity_dtype="bfloat16"))
    assert "similarity_dtype=bfloat16" in settings.as_text()["skip"]


# Law 3: a skip that never skips and a cache that always refreshes change nothing.


@each_cache
def test_law_3_threshold_1_is_bit_for_bit_the_run_without_skip(cache: CachePolicy) -> None:
    logits: list[list[Tensor]] = []
    for skip in (NoSkip(), NEVER, LOW):
        seen = list[Tensor]()

        def look(view: StepView, seen: list[Tensor] = seen) -> None:
            assert view.logits_NV is not None or view.scored is None
            seen.append(torch.zeros(0) if view.logits_NV is None else view.logits_NV.clone())
            seen.append(view.board.confidence_BG.clone())

        engine = Engine(uneven_model(1), BASE, cache=cache, skip=skip)
        engine.generate(prompt_of(1, 7), observer=Looking(look, Taps(logits=True)))
        logits.append(seen)
    plain, never, low = logits
    assert len(plain) == len(never)
    assert all(torch.equal(one, other) for one, other in zip(plain, never, strict=True))
    assert len(low) != len(plain) or any(
        one.shape != other.shape or not torch.equal(one, other)
        for one, other in zip(plain, low, strict=True)
    )


@each_cache
def test_law_3_threshold_1_gives_the_tokens_of_no_skip_and_a_low_one_does_not(
    cache: CachePolicy,
) -> None:
    base = BASE.replace(cache=cache)
    plain = tokens_of(base)
    assert tokens_of(base.replace(skip=NEVER)) == plain
    assert tokens_of(base.replace(skip=LOW)) != plain


@pytest.mark.parametrize("kind", [PrefixCache, DualCache])
def test_law_3_a_refresh_in_every_step_equals_no_cache(
    kind: type[PrefixCache] | type[DualCache],
) -> None:
    exact = tokens_of(BASE.replace(cache=NoCache()))
    assert tokens_of(BASE.replace(cache=kind(refresh_every=1))) == exact
    assert tokens_of(BASE.replace(cache=kind())) != exact


# Law 4: equal confidence, lowest position first.


def order_of_commits(model: Model, unmask: UnmaskPolicy) -> list[tuple[int, ...]]:
    engine = Engine(model, unmask=unmask, gen_length=7, block_length=5, eos_stop=False)
    _, watcher = watch(engine, prompt_of(0, 4))
    return [tuple(position for _, position in seen.committed) for seen in watcher.steps]


@pytest.mark.parametrize("unmask", [Fixed(), Threshold(0.9), Factor(0.5)], ids=repr)
def test_law_4_equal_confidences_are_committed_from_the_left(
    unmask: UnmaskPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = uneven_model(0)
    head_of(model).zero_()
    from_the_left = [(position,) for position in range(4, 11)]
    assert order_of_commits(model, unmask) == from_the_left

    rank_BG = reference.rank

    def from_the_right(confidence_BG: Tensor) -> Tensor:
        return rank_BG(confidence_BG.flip(-1)).flip(-1)

    monkeypatch.setattr(reference, "rank", from_the_right)
    assert order_of_commits(model, unmask) != from_the_left
    assert order_of_commits(uneven_model(0), unmask) != from_the_left


# Law 5: progress is the engine's duty, and the mask id is never predicted.


@dataclass
class ShySession:
    """Chooses the best mask, but only in every second call; or never."""

    never: bool
    calls: int = 0

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        self.calls += 1
        best_BG = Fixed().select(scores, context)
        return best_BG & (not self.never and self.calls % 2 == 0)

    def forget(self, request: int) -> None:
        pass


@dataclass(frozen=True)
class Shy(UnmaskPolicy):
    never: bool = False

    @property
    def uses_steps(self) -> bool:
        return True

    def start(self, geometry: Geometry) -> ShySession:
        return ShySession(self.never)


@each_cache
def test_law_5_an_empty_step_is_followed_by_one_over_all_rows_without_skip(
    cache: CachePolicy,
) -> None:
    engine = Engine(uneven_model(1), BASE, cache=cache, skip=LOW, unmask=Shy())
    (result,), watcher = watch(engine, prompt_of(1, 7))
    assert result.masks_left == 0
    assert MASK not in result.tokens
    everything = frozenset((0, position) for position in range(7 + 18))
    assert len(watcher.steps) == 2 * 18
    for empty, recovery in zip(watcher.steps[::2], watcher.steps[1::2], strict=True):
        assert (empty.recovery, empty.committed) == (False, ())
        assert (recovery.recovery, recovery.rows) == (True, everything)
        assert recovery.skipped == frozenset()
        assert len(recovery.committed) == 1
    assert any(seen.skipped for seen in watcher.steps)
    assert [step.recovery for step in result.stats.steps] == [False, True] * 18


def test_law_5_two_empty_steps_raise() -> None:
    engine = Engine(uneven_model(1), BASE, unmask=Shy(never=True))
    watcher = Watcher()
    with pytest.raises(StalledError, match="chooses no mask; commit at least one"):
        engine.generate(prompt_of(1, 7), observer=watcher)
    assert [seen.recovery for seen in watcher.steps] == [False, True]
    assert not watcher.ended


def test_law_5_skipping_every_row_still_ends() -> None:
    reckless = CosineSkip(2, -1.0, -1.0, keep_committed=False, keep_neighbours=False)
    for seed in SEEDS:
        result = Engine(uneven_model(seed), BASE, skip=reckless).generate(prompt_of(seed, 7))
        assert result.masks_left == 0
        assert result.stats.skip_share == 1.0


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_law_5_a_model_that_wants_the_mask_never_gets_it(temperature: float) -> None:
    model = tiny_model(1, dtype=torch.float32)
    head = head_of(model)
    generator = torch.Generator().manual_seed(7)
    head[MASK] = 20 * torch.randn(head.shape[1], generator=generator)
    wanted = list[Tensor]()

    def look(view: StepView) -> None:
        assert view.logits_NV is not None
        wanted.append(view.logits_NV.argmax(-1) == MASK)

    engine = Engine(model, BASE, temperature=temperature)
    result = engine.generate([*prompt_of(1, 6), MASK], observer=Looking(look, Taps(logits=True)))
    assert torch.cat(wanted).double().mean() > 0.3
    assert MASK not in result.tokens
    assert result.masks_left == 0


# Law 6: no mask is left, unless the budget was meant to be final.


def test_law_6_masks_are_left_only_when_the_budget_is_final_and_then_they_are_counted() -> None:
    left = 0
    for seed in SEEDS:
        engine = Engine(uneven_model(seed), BASE, budget="stop", steps=6)
        stopped = engine.generate(prompt_of(seed, 7))
        assert stopped.masks_left == stopped.tokens.count(MASK)
        assert stopped.stats.num_forwards <= 6
        shown = [int(part.split("⟨")[1].split()[0]) for part in stopped.text.split(" left⟩")[:-1]]
        assert sum(shown) == stopped.masks_left
        assert any(str(stopped.masks_left) in note for note in stopped.notes)
        left += stopped.masks_left

        finished = Engine(engine.model, BASE).generate(prompt_of(seed, 7))
        assert (finished.masks_left, finished.tokens.count(MASK)) == (0, 0)
        assert "left⟩" not in finished.text
    assert left > 10


# Law 12: the same run is the same to the last bit, now and after a refactor.

PINNED: dict[str, tuple[Settings, tuple[int, ...]]] = {
    "none": (
        BASE.replace(cache=NoCache()),
        (49, 49, 49, 49, 49, 49, 55, 55, 49, 49, 55, 55, 55, 38, 38, 38, 56, 56),
    ),
    "prefix": (
        BASE.replace(cache=PrefixCache()),
        (49, 49, 49, 49, 49, 49, 55, 55, 49, 49, 49, 55, 55, 55, 38, 38, 56, 56),
    ),
    "dual": (BASE, (49, 49, 49, 49, 49, 49, 55, 55, 49, 49, 49, 49, 55, 55, 55, 2, 55, 56)),
    "dual with skip": (
        BASE.replace(skip=LOW),
        (49, 49, 49, 49, 49, 49, 55, 49, 49, 49, 49, 49, 55, 55, 55, 2, 56, 55),
    ),
    "dual, sampled": (
        BASE.replace(temperature=1.0, seed=5),
        (49, 49, 49, 49, 49, 49, 55, 49, 49, 49, 49, 55, 55, 55, 38, 2, 56, 55),
    ),
}


@pytest.mark.parametrize("name", list(PINNED))
def test_law_12_tokens_are_those_of_the_first_version(name: str) -> None:
    settings, expected = PINNED[name]
    assert Engine(uneven_model(2), settings).generate(prompt_of(2, 7)).tokens == expected


def test_law_12_pinned_tokens_tell_the_settings_apart() -> None:
    assert len({expected for _, expected in PINNED.values()}) == len(PINNED)


def test_law_12_runs_repeat_to_the_last_bit() -> None:
    confidences = list[Tensor]()
    for _ in range(2):
        engine = Engine(uneven_model(2), BASE, skip=LOW, temperature=0.8, seed=3)
        last = list[Tensor]()
        engine.generate(
            prompt_of(2, 7),
            observer=Looking(lambda v, last=last: last.append(v.board.confidence_BG.clone())),
        )
        confidences.append(torch.stack(last))
    assert torch.equal(*confidences)
