"""What both sides were given is recorded, compared first, and named where it can matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn

from skipstone import Engine, NoCache, attach
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.diagnose import Diagnosis, diagnose
from skipstone.diagnosis.differing import _differ
from skipstone.foreign.attach.plain import plain_fields
from skipstone.record import MemoryTrace
from skipstone.testing.tiny import MASK
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import ExperimentRunner, Side, lifted
from specimens import decode, hf_style
from tests.helpers.watching import uneven_model

PROMPT = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
MODEL = uneven_model(5)


@cache
def net() -> hf_style.HFModelForMaskedLM:
    return hf_style.from_model(MODEL)


def loop(
    model: nn.Module,
    *,
    threshold: float | None = None,
    attention_mask: Tensor | None = None,
    note: str = "",
) -> Tensor:
    """Published loops look like this: arguments, and a call with some of them."""
    canvas = decode.start_canvas(PROMPT, 16, MASK)
    for start, stop in decode.blocks(PROMPT, 16, 8):
        for step in range(stop - start):
            masked = canvas == MASK
            masked[:, stop:] = False
            if not masked.any():
                break
            logits = model(canvas, attention_mask=attention_mask).logits
            share = decode.share_of(canvas, start, stop, MASK, stop - start - step)
            token, commit = decode.choose(logits, masked, MASK, share, threshold)
            canvas = torch.where(commit, token, canvas)
    return canvas


def odd(model: nn.Module, *, note: str) -> Tensor:
    """A loop that an argument turns somewhere that nothing recorded shows."""
    return loop(model, threshold=0.9 if note == "one" else 0.3)


def recorded(run: Callable[[nn.Module], object], model: nn.Module | None = None) -> MemoryTrace:
    model = net() if model is None else model
    with attach(model, level="full", mask_id=MASK, stated={"block_length": 8}) as recorder:
        run(model)
    return recorder.trace


def said(a: MemoryTrace, b: MemoryTrace) -> Diagnosis:
    return diagnose(Case(a, b))


def larger(by: float) -> Callable[[nn.Module, object, Tensor], Tensor]:
    """Code of a module that computes something else, with the weights that it should have."""

    def hook(_: nn.Module, given: object, output: Tensor) -> Tensor:
        return output * by

    return hook


def half() -> Tensor:
    visible = torch.ones(1, 23, dtype=torch.int64)
    visible[:, :4] = 0
    return visible


def test_a_mask_that_only_one_side_was_given_is_named_with_the_line_of_the_call() -> None:
    a, b = recorded(loop), recorded(lambda model: loop(model, attention_mask=half()))
    event = next(e for e in b.records[0].events if e.kind == "given")
    assert event.message.startswith("attention_mask is int64 [1, 23], checksum ")
    assert event.numbers == {"visible": 19.0, "total": 23.0}
    cause = said(a, b).cause
    assert cause is not None
    assert (cause.rule, cause.number) == ("visible-set", 15)
    assert "19 of 23 visible" in cause.evidence
    assert "test_given.py:" in cause.remedy


def test_a_mask_that_hides_nothing_is_as_good_as_none() -> None:
    everything = torch.ones(1, 23, dtype=torch.int64)
    a, b = recorded(loop), recorded(lambda model: loop(model, attention_mask=everything))
    assert said(a, b).verdict == "same"


def test_a_threshold_is_proved_by_replaying_the_decision() -> None:
    a = recorded(lambda model: loop(model, threshold=0.9))
    b = recorded(lambda model: loop(model, threshold=0.3))
    cause = said(a, b).cause
    assert cause is not None
    assert (cause.rule, str(cause.proof)) == ("commit-rule", "necessary and sufficient")
    assert "threshold >= 0.9" in cause.evidence
    assert "threshold >= 0.3" in cause.evidence


def test_an_argument_of_no_known_meaning_hides_nothing() -> None:
    a = recorded(lambda model: loop(model, threshold=0.9, note="one"))
    b = recorded(lambda model: loop(model, threshold=0.3, note="two"))
    found = said(a, b)
    assert [f.rule for f in found.findings] == ["commit-rule"]
    assert "note: one against two" in [f.evidence for f in found.remarks]
    # Arguments of the functions above the loop are seen, too.
    other = recorded(lambda model: odd(model, note="two"))
    assert said(recorded(lambda model: odd(model, note="one")), other).verdict == "commit-rule"


def test_a_threshold_cannot_change_scores() -> None:
    a = recorded(lambda model: loop(model, threshold=0.9))
    other = hf_style.from_model(MODEL)
    dict(other.named_modules())["model.layers.1.mlp"].register_forward_hook(larger(1.1))
    b = recorded(lambda model: loop(model, threshold=0.3), other)
    found = said(a, b)
    assert found.cause is not None
    assert found.cause.rule == "module-bug"
    assert "threshold" in [r.evidence.partition(":")[0] for r in found.remarks]


def test_another_configuration_is_named() -> None:
    other = hf_style.from_model(MODEL)
    other.config.rope_theta *= 2
    found = said(recorded(loop), recorded(loop, other))
    assert found.cause is not None
    assert (found.cause.rule, found.cause.evidence.partition(":")[0]) == (
        "position-encoding",
        "config.rope_theta",
    )


def harness(model: nn.Module, side: str, *, sanitize: bool, threshold: float) -> Tensor:
    """What people write around a loop, to try it."""
    return loop(model, threshold=threshold)


def test_arguments_of_a_users_own_harness_are_never_a_cause() -> None:
    a = recorded(lambda model: harness(model, "A", sanitize=False, threshold=0.9))
    b = recorded(lambda model: harness(model, "B", sanitize=True, threshold=0.9))
    found = said(a, b)
    assert (found.verdict, found.findings) == ("same", ())
    # Nor where the runs part, and nothing explains it.
    scored = hf_style.from_model(MODEL)
    dict(scored.named_modules())["model.layers.0.mlp"].register_forward_hook(larger(1.5))
    b = recorded(lambda model: harness(model, "B", sanitize=True, threshold=0.9), scored)
    found = said(a, b)
    assert "given different" not in " ".join(f.what for f in found.findings)
    assert {"side: A against B", "sanitize: false against true"} <= {
        f.evidence for f in found.remarks
    }


def counted(model: nn.Module, steps: int, block_length: int) -> Tensor:
    """A loop that makes another number of its argument before the first call."""
    steps = steps // block_length
    return loop(model, threshold=0.9 if steps < 3 else 0.3)


def test_an_argument_that_the_loop_has_set_itself_is_not_what_it_was_given() -> None:
    trace = recorded(lambda model: counted(model, steps=16, block_length=8))
    settings = trace.records[0].header.settings
    assert "steps" not in settings
    assert settings["steps (assigned)"] == "2"
    found = said(trace, recorded(lambda model: counted(model, steps=16, block_length=4)))
    assert "steps" not in " ".join(f.what for f in found.findings)


def test_a_canvas_of_another_mask_id_is_named_as_such() -> None:
    def finished(model: nn.Module) -> None:
        canvas = torch.cat([PROMPT, torch.arange(16)[None] % 5 + 20], dim=1)
        model(canvas)

    cause = said(recorded(loop), recorded(finished)).cause
    assert cause is not None
    assert (cause.rule, cause.where.position) == ("commit-rule", 7)
    assert "has no mask" in cause.evidence


# --- law 15: each side with its own dtype


def traced(engine: Engine) -> MemoryTrace:
    recorder = Recorder()
    engine.generate(PROMPT[0].tolist(), observer=recorder)
    return recorder.trace


@pytest.fixture(scope="module")
def engines() -> tuple[Engine, Engine]:
    from skipstone.tracing.experiments.runner import _copied

    fine, coarse = _copied(MODEL, torch.float32), _copied(MODEL, torch.bfloat16)
    settings = {"cache": NoCache(), "gen_length": 16, "block_length": 8}
    return Engine(fine, **settings), Engine(coarse, **settings)


def test_two_dtypes_are_a_difference_in_what_was_given(engines: tuple[Engine, Engine]) -> None:
    a, b = (traced(engine) for engine in engines)
    assert a.records[0].tokens != b.records[0].tokens
    # What is at hand is A's model: the wrong subject for B.
    runner = ExperimentRunner(Side(a, 0, engines[0]), Side(b, 0, engines[0]), engines[0].model)
    found = diagnose(Case(a, b, runner))
    assert found.cause is not None
    assert found.cause.evidence == "dtype: float32 against bfloat16"
    assert str(found.cause.proof) == "sufficient"
    assert "side B ran in bfloat16, and what is here runs in float32" in found.unavailable


def test_the_same_with_both_at_hand(engines: tuple[Engine, Engine]) -> None:
    a, b = (traced(engine) for engine in engines)
    runner = ExperimentRunner(Side(a, 0, engines[0]), Side(b, 0, engines[1]), engines[0].model)
    found = diagnose(Case(a, b, runner))
    assert found.cause is not None
    assert found.cause.evidence == "dtype: float32 against bfloat16"
    assert found.verdict == "other-inputs"


def test_without_a_model_two_dtypes_are_consistent(engines: tuple[Engine, Engine]) -> None:
    a, b = (traced(engine) for engine in engines)
    found = said(a, b)
    assert found.cause is not None
    assert (found.verdict, str(found.cause.proof)) == ("other-inputs", "consistent")


def test_a_better_dtype_is_still_made(engines: tuple[Engine, Engine]) -> None:
    assert lifted(engines[0].model).network.dtype == torch.float64


# --- fields of objects


@dataclass
class Rule:
    """How published loops are told to commit."""

    sure: float = 0.9
    api_key: str = "hush"


@dataclass
class Config:
    """Settings within settings."""

    rule: Rule
    top_k: int | None = None


def configured(model: nn.Module, config: Config | dict[str, object]) -> Tensor:
    """What an object says is asked where nothing shows it."""
    rule = config["rule"] if isinstance(config, dict) else config.rule
    assert isinstance(rule, Rule)
    for _ in range(1):
        canvas = loop(model, threshold=rule.sure)
    return canvas


def in_a_dictionary(rule: Rule) -> dict[str, object]:
    return {"rule": rule}


@pytest.mark.parametrize("made", [Config, in_a_dictionary])
def test_fields_of_objects_are_told_beside_what_was_measured(
    made: Callable[[Rule], Config | dict[str, object]],
) -> None:
    a = recorded(lambda model: configured(model, made(Rule(0.9))))
    b = recorded(lambda model: configured(model, made(Rule(0.3))))
    environment = b.records[0].header.environment
    assert environment["given.config.rule.sure"] == "0.3"
    assert "hush" not in environment.values()
    found = said(a, b).cause
    assert found is not None
    assert found.rule == "commit-rule"
    assert "config.rule.sure: 0.9 against 0.3" in found.evidence


def test_what_cuts_nothing_off_is_as_good_as_none() -> None:
    assert not _differ("top_k", "None", "0")
    assert not _differ("config.top_p", "None", "1.0")
    assert _differ("top_k", "None", "3")
    assert _differ("eos_token_id", "None", "0")


def test_objects_that_lead_to_each_other_and_large_ones_are_read_as_far_as_it_is_bounded() -> None:
    class Node:
        other: object

    one, two = Node(), Node()
    one.other, two.other = two, one
    assert plain_fields("node", one) == {}
    many = {f"field{i}": i for i in range(10_000)}
    assert len(plain_fields("many", many)) == 256
    assert plain_fields("f", partial(loop, threshold=0.5)) == {"f.threshold": "0.5"}
