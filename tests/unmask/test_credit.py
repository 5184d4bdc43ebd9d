"""Credit decoding against a literal twin of its published code, and the logits it is shown."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from skipstone import Engine, PolicyError, Settings
from skipstone.blocks import Block
from skipstone.canvas import Canvas, Geometry, StepContext
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.commit_rule import CommitRule
from skipstone.diagnosis.diagnose import diagnose
from skipstone.diagnosis.finding import Proof
from skipstone.engine.score.weighing import Weighing
from skipstone.tracing.experiments.runner import ExperimentRunner, Side
from skipstone.unmask import Credit, MaskLogits, Need, Threshold, UnmaskPolicy
from skipstone.unmask.credit import _Credits
from tests.conftest import context_at
from tests.helpers.recorded import case_of, record, trace_of
from tests.helpers.watching import BASE, LOW, prompt_of, uneven_model

CPU = torch.device("cpu")
VOCAB, OFFSETS, MASK = 11, 6, 3


def geometry(batch: int) -> Geometry:
    return Geometry(batch, OFFSETS + 1, OFFSETS, 1, 1, torch.float32, CPU)


def context(batch: int) -> StepContext:
    canvas = Canvas.start([[1]] * batch, OFFSETS, MASK, CPU)
    return context_at(canvas, Block(0, 0, OFFSETS), 0, OFFSETS)


@dataclass
class Published:
    """``_apply_credit_fusion``: a number for each position and each id, float32."""

    policy: Credit
    credit_GV: Tensor

    def fused(self, logits_GV: Tensor, masked_G: Tensor) -> Tensor:
        self.credit_GV *= self.policy.beta
        probability_GV = logits_GV.softmax(-1)
        probability_GV[:, MASK] = 0
        for g in masked_G.nonzero()[:, 0].tolist():
            best = int(probability_GV[g].argmax())
            self.credit_GV[g, best] += probability_GV[g, best] ** self.policy.gamma
        return logits_GV + self.policy.alpha * self.credit_GV.log1p()


def masks(
    logits_NV: Tensor, places: list[tuple[int, int]], taken_N: Tensor | None = None
) -> MaskLogits:
    request, offset = torch.tensor(places).T
    return MaskLogits(logits_NV, request, offset, taken_N, MASK)


@pytest.mark.parametrize("policy", [Credit(), Credit(alpha=2, gamma=0.0, beta=1.0), Credit(beta=0)])
def test_logits_are_those_of_the_published_matrix(policy: Credit) -> None:
    torch.manual_seed(0)
    literal = [Published(policy, torch.zeros(OFFSETS, VOCAB)) for _ in range(2)]
    session, at = policy.start(geometry(2)), context(2)
    places = [(r, g) for r in range(2) for g in range(OFFSETS)]
    given_NV = fused_NV = torch.empty(0)
    # A block has no more steps than masks.
    for step in range(OFFSETS):
        logits_RGV = 3 * torch.randn(2, OFFSETS, VOCAB)
        wanted = [
            one.fused(logits_GV, torch.ones(OFFSETS))
            for one, logits_GV in zip(literal, logits_RGV, strict=True)
        ]
        given_NV = logits_RGV.flatten(0, 1)
        before_NV = given_NV.clone()
        fused_NV = session.weigh(masks(given_NV, places), at)
        assert torch.equal(given_NV, before_NV)
        torch.testing.assert_close(fused_NV, torch.cat(wanted), rtol=1e-6, atol=1e-6)
        assert (fused_NV != given_NV).sum() > step
    # Control: it remembers. A session that starts now gives others.
    anew_NV = policy.start(geometry(2)).weigh(masks(given_NV, places), at)
    assert torch.equal(anew_NV, fused_NV) == (policy.beta == 0)


def test_what_is_not_taken_earns_nothing_and_what_left_is_forgotten() -> None:
    torch.manual_seed(1)
    session, at, places = Credit().start(geometry(2)), context(2), [(0, 2), (1, 2), (1, 4)]
    logits_NV = torch.randn(3, VOCAB)
    fresh_NV = Credit().start(geometry(2)).weigh(masks(logits_NV, places), at)
    poison_NV = torch.full_like(logits_NV, torch.nan)
    session.weigh(masks(poison_NV, places, torch.zeros(3, dtype=torch.bool)), at)
    assert torch.equal(session.weigh(masks(logits_NV, places), at), fresh_NV)
    session.forget(1)
    again_NV = session.weigh(masks(logits_NV, places), at)
    assert not torch.equal(again_NV[0], fresh_NV[0])
    assert torch.equal(again_NV[1:], fresh_NV[1:])


def test_half_precision_is_weighed_in_single() -> None:
    logits_NV = torch.randn(1, VOCAB).bfloat16()
    fused_NV = Credit().start(geometry(1)).weigh(masks(logits_NV, [(0, 0)]), context(1))
    assert fused_NV.dtype == torch.float32
    assert (fused_NV != logits_NV.float()).sum() == 1


CREDITS = ["credit", "credit:alpha=3", "credit:alpha=3,beta=0.2"]


@pytest.mark.parametrize("skip", ["none", LOW])
@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_each_gives_alone_what_it_gives_beside_others(
    skip: str, runner: Literal["eager", "graph"]
) -> None:
    model = uneven_model(2)
    chosen = Settings(gen_length=18, block_length=6, eos_stop=False, skip=skip)
    unmasks = [*CREDITS, "threshold:0.9", *CREDITS]
    prompts = [prompt_of(n, 3 + 2 * n) for n in range(len(unmasks))]
    alone = [
        Engine(model, chosen, unmask=unmask).generate(prompt).tokens
        for unmask, prompt in zip(unmasks, prompts, strict=True)
    ]
    # More prompts than slots: others take the slots of those that leave, which it must forget.
    engine = Engine(model, chosen, runner=runner, slots=3)
    handles = [
        engine.submit(prompt, unmask=unmask)
        for unmask, prompt in zip(unmasks, prompts, strict=True)
    ]
    assert [handle.result().tokens for handle in handles] == alone
    # Control: credit decides tokens here, and the kinds of it differ.
    kinds, prompt = ["threshold:0.9", *CREDITS], prompt_of(1, 5)
    others = [Engine(model, chosen, unmask=one).generate(prompt).tokens for one in kinds]
    assert len(set(others)) >= 3


def test_without_weight_it_is_the_threshold() -> None:
    model, prompt = uneven_model(2), prompt_of(1, 5)
    plain, weightless = (
        Engine(model, BASE.replace(unmask=unmask)).generate(prompt)
        for unmask in (Threshold(0.9), Credit(alpha=0))
    )
    assert weightless.tokens == plain.tokens
    assert weightless.stats.num_forwards == plain.stats.num_forwards


@pytest.mark.parametrize("cache", ["none", "dual", "prefix:refresh_every=2"])
def test_what_is_recorded_has_the_credit_in_it_and_is_replayed(cache: str) -> None:
    run = record(BASE.replace(unmask=CREDITS[1], cache=cache, skip=LOW)).records[0]
    rule = CommitRule.of(run)
    assert rule is not None
    assert [rule.commits(step) for step in run.steps] == [s.committed for s in run.steps]
    assert all((s.candidates.bound == 0.9).all() for s in run.steps)


def test_logits_are_shown_to_those_who_asked_and_to_nobody_else() -> None:
    with patch.object(Weighing, "__init__", side_effect=AssertionError("somebody asked")):
        trace_of.__wrapped__(BASE)
        with pytest.raises(AssertionError, match="somebody asked"):
            record(BASE.replace(unmask=Credit()))


def gives_nothing(self: _Credits, masks: MaskLogits, context: StepContext) -> None:
    pass


def gives_another_shape(self: _Credits, masks: MaskLogits, context: StepContext) -> Tensor:
    return torch.zeros(2, 3)


def is_broken(self: _Credits, masks: MaskLogits, context: StepContext) -> Tensor:
    raise AttributeError("nothing")


@pytest.mark.parametrize(
    ("weigh", "said"),
    [
        (gives_nothing, "gives NoneType for logits, must be float32"),
        (gives_another_shape, r"gives float32 \[2, 3\] on cpu for logits, must be float32 \["),
        (is_broken, "raised AttributeError: nothing"),
    ],
)
def test_an_error_in_it_ends_those_who_share_it(
    weigh: Callable[..., object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Credits, "weigh", weigh)
    engine = Engine(uneven_model(1), BASE)
    ends = engine.submit(prompt_of(1, 5), unmask="credit")
    goes_on = engine.submit(prompt_of(1, 5), unmask="threshold:0.1")
    with pytest.raises(PolicyError, match=said):
        ends.result()
    assert (
        goes_on.result().tokens
        == Engine(uneven_model(1), BASE, unmask="threshold:0.1").generate(prompt_of(1, 5)).tokens
    )


def test_a_policy_that_only_looks_changes_nothing() -> None:
    seen = list[int]()

    class Looks(_Credits):
        def weigh(self, masks: MaskLogits, context: StepContext) -> Tensor:
            seen.append(masks.logits_NV.shape[0])
            return masks.logits_NV

    @dataclass(frozen=True)
    class Looking(Credit):
        def start(self, geometry: Geometry) -> Looks:
            return Looks(geometry, self)

    def tokens(unmask: UnmaskPolicy) -> tuple[int, ...]:
        settings = BASE.replace(unmask=unmask, temperature=0.8, seed=3)
        return tuple(Engine(uneven_model(1), settings).generate(prompt_of(1, 5)).tokens)

    assert tokens(Looking(0.1)) == tokens(Threshold(0.1))
    assert sum(seen) > 18
    assert Need.LOGITS in Looking().needs


@pytest.mark.parametrize(
    "wrong",
    ["value=1.5", "value=-0.1", "beta=2", "alpha=-1", "gamma=-0.5", "alpha=inf", "gamma=nan"],
)
def test_values_out_of_their_range_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"credit {wrong.partition('=')[0]}"):
        Settings(unmask=f"credit:{wrong}")


def test_a_setting_of_it_that_decides_is_named() -> None:
    a, b = BASE.replace(unmask=CREDITS[1]), BASE.replace(unmask=CREDITS[2])
    cause = diagnose(case_of(a, b)).cause
    assert cause is not None
    assert cause.rule == "commit-rule"
    assert "unmask.beta: 0.8 against 0.2" in str(cause.evidence)
    assert cause.proof is Proof.NECESSARY_AND_SUFFICIENT


def never_fades() -> AbstractContextManager[object]:
    """A credit stays what it was."""
    start = Credit.start

    def wrong(self: Credit, geometry: Geometry) -> _Credits:
        return start(replace(self, beta=1.0), geometry)

    return patch.object(Credit, "start", wrong)


def test_a_fault_in_the_credit_is_told_from_one_in_the_model() -> None:
    chosen = BASE.replace(unmask="credit:value=0.9,alpha=3,beta=0.2")
    model = uneven_model(1)
    a = record(chosen)
    with never_fades():
        b = record(chosen)
    mine, theirs = Side(a, 0, Engine(model, chosen)), Side(b, 0, Engine(model, chosen), never_fades)
    found = diagnose(Case(a, b, ExperimentRunner(mine, theirs, model)))
    assert found.cause is not None
    assert found.cause.rule == "commit-rule"
    assert "chooses by other logits than its settings give" in str(found.cause.what)
    # Nothing is remembered in the first step, and the second is where it is first missed.
    assert (found.cause.where.block, found.cause.where.step) == (0, 1)
    same = diagnose(Case(a, a, ExperimentRunner(mine, mine, model)))
    assert same.cause is None
