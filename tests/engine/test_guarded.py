"""Policies of others that break: who asked for one ends with a sentence, the others go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from skipstone import ConfigError, Engine, Model, PolicyError, Settings
from skipstone.cache import CacheNeed, CachePolicy, CacheSession, DualCache
from skipstone.canvas import Geometry, StepContext
from skipstone.engine.request import Handle
from skipstone.rows import Rows
from skipstone.testing import tiny_model
from skipstone.unmask import Need, Scores, Threshold
from tests.engine.third_party import RandomSkip

if TYPE_CHECKING:
    from torch import Tensor

MODEL = tiny_model(seed=1)
BASE = Settings(unmask=Threshold(0.4), gen_length=24, block_length=8)
PROMPTS = [[3, 14, 15], [9, 26, 5, 35, 8], [9, 7]]


@dataclass(frozen=True)
class Broken(CachePolicy):
    """A dual cache, one method of which fails from the second step of a request on."""

    where: str
    how: str = "raise"

    @property
    def needs(self) -> frozenset[CacheNeed]:
        return frozenset({"layer_inputs", "attention"})

    def start(self, geometry: Geometry) -> CacheSession:
        return BrokenSession(self)


class BrokenSession(CacheSession):
    def __init__(self, policy: Broken) -> None:
        self.policy, self.whole = policy, DualCache()

    @property
    def names_before(self) -> tuple[int, ...]:
        return (3,)

    def rows(self, context: StepContext) -> Rows:
        return self._or_breaks("rows", self.whole.rows(context), context)

    def taken(self, rows: Rows, context: StepContext) -> None:
        self._or_breaks("taken", rows, context)

    def rows_before(
        self, layer: int, x_ND: Tensor, rows: Rows, context: StepContext
    ) -> Rows | None:
        return self._or_breaks("rows_before", rows, context)

    def attended(self, layer: int, weights_NK: Tensor, rows: Rows, context: StepContext) -> None:
        self._or_breaks("attended", rows, context)

    def forget(self, request: int) -> None:
        if self.policy.where == "forget":
            raise LookupError("no such request")

    def _or_breaks(self, where: str, rows: Rows, context: StepContext) -> Rows:
        if where != self.policy.where or all(at.forward == 0 for at in context.requests):
            return rows
        if self.policy.how == "raise":
            raise LookupError("no such row")
        if self.policy.how == "nobody":
            return rows.take(np.arange(0))
        return [3, 4]  # type: ignore[return-value]


RAISED = r"the cache policy .*Broken.* raised LookupError: no such r.* \(test_guarded.py:\d+\)"


@pytest.mark.parametrize("runner", ["eager", "graph"])
@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (Broken("rows"), RAISED),
        (Broken("rows", "list"), "names rows with list, must be Rows"),
        (Broken("rows", "nobody"), r"names rows of slots \[\], must be some of each of \[\d"),
        (Broken("taken"), RAISED),
        (Broken("rows_before"), RAISED),
        (Broken("rows_before", "list"), "names rows with list, must be Rows"),
        (Broken("attended"), RAISED),
        (Broken("forget"), RAISED),
    ],
    ids=lambda one: f"{one.where} {one.how}" if isinstance(one, Broken) else "",
)
def test_an_error_of_a_cache_policy_ends_the_requests_that_share_it_alone(
    policy: Broken, told: str, runner: str
) -> None:
    alone = [Engine(MODEL, BASE).generate(prompt) for prompt in PROMPTS]
    engine = Engine(MODEL, BASE, slots=3, runner=runner)  # type: ignore[arg-type]
    for order in ((0, 1, 2), (1, 0, 2)):
        handles = {
            n: engine.submit(PROMPTS[n], cache=policy if n == 1 else BASE.cache) for n in order
        }
        with pytest.raises((PolicyError, ConfigError), match=told):
            handles[1].result(60)
        for n in (0, 2):
            result = handles[n].result(60)
            assert result.tokens == alone[n].tokens
            # Nor do they lose a step: they share the unmask policy.
            assert result.stats.num_forwards == alone[n].stats.num_forwards


def test_a_cache_that_does_not_break_gives_what_the_dual_cache_gives() -> None:
    """The control of the test above."""
    engine = Engine(MODEL, BASE, cache=Broken("nowhere"))
    expected = Engine(MODEL, BASE).generate(PROMPTS[1]).tokens
    assert engine.generate(PROMPTS[1]).tokens == expected


@dataclass(frozen=True)
class Misspelt(DualCache):
    @property
    def needs(self) -> frozenset[CacheNeed]:
        return frozenset({"layer_input"})  # type: ignore[arg-type]


@dataclass(frozen=True)
class NeedsMuch(Threshold):
    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"entropie"})  # type: ignore[arg-type]


@dataclass(frozen=True)
class NeedsRaise(Threshold):
    @property
    def needs(self) -> frozenset[Need]:
        raise LookupError("no needs")


def submit(model: Model, **own: Any) -> Handle:
    return Engine(model).submit([3], **own)


@pytest.mark.parametrize("begin", [Engine, submit])
def test_what_is_not_known_to_be_needed_is_refused_at_once(begin: Callable[..., object]) -> None:
    with pytest.raises(ConfigError, match=r"needs 'layer_input'.*did you mean 'layer_inputs'"):
        begin(MODEL, cache=Misspelt())
    with pytest.raises(ConfigError, match=r"needs 'entropie'.*did you mean 'entropy'"):
        begin(MODEL, unmask=NeedsMuch())
    with pytest.raises(PolicyError, match=r"NeedsRaise.*LookupError: no needs"):
        begin(MODEL, unmask=NeedsRaise())


@dataclass(frozen=True)
class BrokenSkip(RandomSkip):
    """A skip, one method of which raises, or keeps something else."""

    where: str = ""
    gives: object = None

    def start(self, geometry: Geometry) -> Any:
        if self.where == "start":
            raise LookupError("no start")
        return BrokenSkipSession(self)


class BrokenSkipSession:
    decides_after, scores = (2,), None

    def __init__(self, policy: BrokenSkip) -> None:
        self.policy = policy

    def __getattr__(self, name: str) -> Any:
        def called(*args: Any) -> object:
            if name == self.policy.where:
                raise LookupError(f"no {name}")
            return self.policy.gives if name == "keep" and args[0] == 2 else None

        return called


@pytest.mark.parametrize(
    ("where", "gives", "told"),
    [
        *(
            (name, None, rf"raised LookupError: no {name} \(test_guarded.py:\d+\)")
            for name in ("start", "expect", "learn", "keep", "forget")
        ),
        ("", [True] * 8, r"keeps list after layer 2, must be bool \[8\] on cpu"),
        ("", torch.ones(7, dtype=torch.bool), r"keeps bool \[7\] on cpu after layer 2"),
        ("", torch.ones(8), r"keeps float32 \[8\] on cpu after layer 2"),
        ("", torch.ones(8, dtype=torch.bool, device="meta"), r"keeps bool \[8\] on meta after"),
    ],
)
def test_an_error_of_a_skip_policy_names_it(where: str, gives: object, told: str) -> None:
    broken = BrokenSkip((2,), 0.5, 1, where, gives)
    with pytest.raises(PolicyError, match=rf"the skip policy BrokenSkip.* {told}"):
        Engine(MODEL, BASE, unmask="fixed", skip=broken).generate_batch(PROMPTS[:1])


def test_a_choice_on_another_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    select = Threshold.select

    def elsewhere(self: Threshold, scores: Scores, context: StepContext) -> Tensor:
        return select(self, scores, context).to("meta")

    monkeypatch.setattr(Threshold, "select", elsewhere)
    with pytest.raises(PolicyError, match=r"unmask policy threshold.* selects bool .* on meta"):
        Engine(MODEL, BASE).generate(PROMPTS[0])
