"""One call: both runs are made, recorded and diagnosed, whatever the bad one does."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import skipstone as st
from skipstone.errors import ConfigError
from skipstone.foreign.explain import function_side
from skipstone.foreign.explain.explanation import Explanation
from skipstone.testing.tiny import tiny_model
from specimens import decode, llada_style

MODEL = tiny_model()
PROMPT = [3, 1, 4, 1, 5, 9, 2]
MASK = llada_style.from_model(MODEL, aligned=True).config.mask_token_id


def network() -> llada_style.LLaDAModelLM:
    return llada_style.from_model(MODEL, aligned=True)


def good(net: llada_style.LLaDAModelLM) -> Callable[[], Tensor]:
    return lambda: decode.dual_cache(net, torch.tensor([PROMPT]))


def shifted(net: llada_style.LLaDAModelLM) -> Tensor:
    return decode.dual_cache(net, torch.tensor([PROMPT]), fault="replace_off_by_one")


def explained(
    net: llada_style.LLaDAModelLM, bad: Callable[..., object], **options: object
) -> Explanation:
    return st.explain(net, good(net), bad, **options)  # pyrefly: ignore[bad-argument-type]


def test_ten_lines_say_where_why_and_what_it_cost() -> None:
    net = network()
    found = explained(net, lambda: shifted(net))
    lines = str(found).splitlines()
    assert len(lines) <= 10
    assert found.verdict == "wrong-cache-row"
    for begin in ("A and B part at", "cause: ", "evidence: ", "proof: ", "line: ", "next: "):
        assert any(line.startswith(begin) for line in lines), begin
    assert found.line.startswith("specimens/decode.py:")
    assert lines[-1].startswith("cost: good ")
    assert "x recorded" in lines[-1]
    assert "x sanitized" in lines[-1]
    assert {e.kind for e in found.events} >= {"misaligned_rows", "positions_disagree"}
    assert found.comparison is not None
    assert found.comparison.first is not None
    # Both were recorded once more with their tensors.
    assert found.good.keys(0)
    assert found.bad.keys(0)


def test_two_right_runs_are_the_same_and_not_called_anything() -> None:
    net = network()
    found = explained(net, good(net))
    assert found.verdict == "same"
    assert found.notes == ()
    assert found.diagnosis.cause is None


def test_a_notebook_shows_it_escaped() -> None:
    net = network()

    def bad() -> Tensor:
        shifted(net)
        raise ValueError("<script>alert(1)</script>")

    html = explained(net, bad)._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "<table>" in html


def test_what_the_bad_run_raises_is_said_and_its_steps_are_diagnosed() -> None:
    net = network()
    calls = list[int]()

    def bad() -> None:
        def count(module: nn.Module, args: object) -> None:
            calls.append(1)
            if len(calls) == 4:
                raise IndexError("row 4 of 3")

        hook = net.register_forward_pre_hook(count)
        try:
            shifted(net)
        finally:
            hook.remove()

    found = explained(net, bad)
    (raised,) = [line for line in found.lines() if line.startswith("raised: bad after")]
    assert "IndexError: row 4 of 3" in raised
    assert "test_explain.py" in raised
    assert found.bad.records[0].outcome is None
    assert found.verdict == "wrong-cache-row"


def test_an_error_is_the_cause_where_nothing_else_is() -> None:
    net = network()
    calls = list[int]()

    def bad() -> Tensor:
        def count(module: nn.Module, args: object) -> None:
            calls.append(1)
            if len(calls) % 6 == 0:
                raise IndexError("row 4 of 3")

        calls.clear()
        hook = net.register_forward_pre_hook(count)
        try:
            return decode.dual_cache(net, torch.tensor([PROMPT]))
        finally:
            hook.remove()

    found = explained(net, bad)
    lines = found.lines()
    assert found.diagnosis.cause is None
    assert "cause: bad raised an error, and nothing else needs to explain it" in lines
    assert any(line.startswith("raised: bad after") and "row 4 of 3" in line for line in lines)


def test_a_run_that_raises_at_once_or_never_calls_the_model_is_named() -> None:
    net = network()
    with pytest.raises(ConfigError, match=r"bad: nothing of .* was recorded: .*never called"):
        explained(net, lambda: None)

    def broken() -> None:
        raise RuntimeError("no file")

    with pytest.raises(ConfigError, match=r"bad: nothing of the run .* RuntimeError: no file"):
        explained(net, broken)


def test_a_run_that_is_not_the_same_twice_has_no_other_cause() -> None:
    net = network()
    # Nothing can put a counter back.
    runs = itertools.count()

    def bad() -> Tensor:
        ids = torch.tensor([PROMPT])
        return decode.dual_cache(net, ids, threshold=(0.001, 0.5)[next(runs) % 2])

    found = explained(net, bad)
    assert found.verdict == "nondeterminism"
    assert "bad is not the same twice" in " ".join(found.notes)
    assert any(line.startswith("careful: ") for line in found.lines())


def test_what_it_prints_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    net = network()

    def bad() -> Tensor:
        print("decoding")
        return shifted(net)

    explained(net, bad)
    assert capsys.readouterr().out == "decoding\n"


def test_every_run_begins_alike_and_all_is_put_back() -> None:
    net = network()
    prompt = torch.tensor([PROMPT])
    own = torch.Generator().manual_seed(7)
    weight = next(net.parameters())
    before, drawn = weight.clone(), own.get_state()
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()

    def bad() -> Tensor:
        draws = torch.rand(1), torch.rand(1, generator=own)
        noted = random.random(), np.random.rand(), float(draws[0]), float(draws[1])
        record(noted)
        out = decode.dual_cache(net, prompt, fault="replace_off_by_one")
        prompt.fill_(1)
        with torch.no_grad():
            weight.mul_(2)
        net.register_buffer("left_behind", torch.ones(3))
        return out

    def record(noted: tuple[float, float, float, float]) -> None:
        seen_elsewhere.append(noted)

    found = explained(net, bad)
    assert len(set(seen_elsewhere)) == 1
    assert len(seen_elsewhere) >= 4
    assert found.verdict == "wrong-cache-row"
    assert prompt.tolist() == [PROMPT]
    assert torch.equal(weight, before)
    assert not hasattr(net, "left_behind")
    assert torch.equal(own.get_state(), drawn)
    assert random.getstate() == states[0]
    assert str(np.random.get_state()) == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    notes = " ".join(found.notes)
    assert "bad changes " in notes
    assert "not in yours" in notes


seen_elsewhere = list[tuple[float, float, float, float]]()


def test_what_the_good_run_leaves_in_a_dictionary_is_there_for_the_bad_one() -> None:
    net = network()
    log = dict[str, Tensor]()

    def first() -> None:
        log["good"] = good(net)()

    def second() -> bool:
        log["bad"] = shifted(net)
        return torch.equal(log["good"], log["bad"])

    found = st.explain(net, first, second)
    assert found.verdict == "wrong-cache-row"
    assert set(log) == {"good", "bad"}
    assert "good returns nothing to compare" in " ".join(found.notes)


def test_logits_of_both_runs_that_are_compared_on_a_few_entries_are_named() -> None:
    net = network()
    kept = dict[str, list[Tensor]]()

    def logged(name: str, decode_it: Callable[[], object]) -> None:
        steps = kept[name] = list[Tensor]()

        def keep(module: nn.Module, args: object, out: object) -> None:
            logits = getattr(out, "logits", None)
            assert isinstance(logits, Tensor)
            steps.append(logits)

        hook = net.register_forward_hook(keep)
        try:
            decode_it()
        finally:
            hook.remove()
        # As the notebook does: the first entries of each step.
        kept[name] = [logits[:, :, :3].clone() for logits in steps]

    def bad() -> list[bool]:
        logged("bad", lambda: shifted(net))
        pairs = zip(kept["good"], kept["bad"], strict=True)
        return [np.allclose(a.cpu().numpy(), b.cpu().numpy(), atol=100.0) for a, b in pairs]

    found = st.explain(net, lambda: logged("good", good(net)), bad)
    (event,) = [e for e in found.events if e.kind == "partial_logits_compare"]
    assert "test_explain.py:" in event.source
    assert "logits are compared on 3 of" in event.message
    assert event.numbers["whole_difference"] > event.numbers["seen_difference"]
    assert any("partial_logits_compare" in line for line in found.lines())


def test_another_number_of_runs_is_paired_by_prompt_and_said() -> None:
    net = network()

    def both() -> Tensor:
        decode.dual_cache(net, torch.tensor([[2, 2, 2]]))
        return shifted(net)

    found = explained(net, both)
    assert found.verdict == "wrong-cache-row"
    assert "run 1 of good is held against run 2 of bad" in " ".join(found.notes)


def test_a_function_is_given_the_model_if_it_asks_for_it() -> None:
    net = network()
    assert explained(net, shifted).verdict == "wrong-cache-row"
    bound = partial(decode.dual_cache, net, torch.tensor([PROMPT]), fault="replace_off_by_one")
    assert explained(net, bound).verdict == "wrong-cache-row"


def two(a: int, b: int) -> int:
    return a + b


def test_what_cannot_be_run_is_refused_with_a_remedy() -> None:
    net = network()
    with pytest.raises(ConfigError, match=r"bad needs a, b; .* lambda"):
        explained(net, two)
    with pytest.raises(ConfigError, match=r"bad is a .*, a network; give the function"):
        explained(net, net)
    with pytest.raises(ConfigError, match="bad is 3"):
        explained(net, 3)  # pyrefly: ignore[bad-argument-type]
    with pytest.raises(ConfigError, match="bad is missing"):
        st.explain(net, good(net))
    with pytest.raises(ConfigError, match=r"good is a function, and model is None"):
        st.explain(None, good(net), good(net))
    with pytest.raises(ConfigError, match="full"):
        explained(net, good(net), level="ful")


def test_recorded_runs_need_no_model(tmp_path: Path) -> None:
    net = network()
    with st.attach(net, level="full") as a:
        good(net)()
    with st.attach(net, level="full", sanitize=True) as b:
        shifted(net)
    for found in (st.explain(a, b), st.explain(good=a.trace, bad=b), st.explain(None, a, b)):
        assert found.verdict == "wrong-cache-row"
        assert found.lines()[-1].startswith("cost: 0 runs")
    found.save(tmp_path / "found")
    again = st.explain(tmp_path / "found" / "good.trace", str(tmp_path / "found" / "bad.trace"))
    assert again.verdict == found.verdict
    assert len(again.bad.keys(0)) == len(found.bad.keys(0))
    saved = json.loads((tmp_path / "found" / "explanation.json").read_text())
    assert saved["diagnosis"]["verdict"] == "wrong-cache-row"
    assert (tmp_path / "found" / "explanation.txt").read_text() == f"{found}\n"


def test_a_recorded_run_is_held_against_a_function() -> None:
    net = network()
    with st.attach(net) as a:
        good(net)()
    assert st.explain(net, a, lambda: shifted(net)).verdict == "wrong-cache-row"


def test_engines_and_settings_of_a_model_of_ours() -> None:
    base = st.Engine(MODEL, gen_length=16, block_length=8, eos_stop=False)
    fast = base.settings.replace(unmask=st.Threshold(0.02))
    expected = "over-parallel"
    sides = (
        (MODEL, base, st.Engine(MODEL, fast)),
        (base, base.settings, fast),
        (base, "unmask=threshold:value=0.9", "unmask=threshold:value=0.02"),
    )
    for model, one, two in sides:
        found = st.explain(model, one, two, prompt=PROMPT, time_limit=60)
        assert found.verdict == expected
        assert found.lines()[-1].startswith("cost: good ")
    with pytest.raises(ConfigError, match="prompt is missing"):
        st.explain(base, "cache=none", "cache=dual")
    with pytest.raises(ConfigError, match=r"good is a function"):
        st.explain(base, lambda: None, lambda: None, prompt=PROMPT)


@pytest.mark.parametrize("level", ["decisions", "sketches", "full"])
def test_a_level_is_obeyed(level: str) -> None:
    net = network()
    found = explained(net, lambda: shifted(net), level=level)
    taps = {str(key.tap) for key in found.bad.keys(0)}
    assert (
        taps
        == {
            "decisions": set(),
            "sketches": {"sketch"},
            "full": {"state", "key", "value", "logits"}
            | {"query", "attended_key", "mixed", "attention"},
        }[level]
    )


def test_a_window_is_obeyed() -> None:
    net, window = network(), ((1, 0), (1, 1))
    found = explained(net, lambda: shifted(net), level="window", window=window)
    forwards = {key.forward for key in found.bad.keys(0)}
    steps = found.bad.records[0].steps
    assert forwards == {s.forward for s in steps if s.block == 1 and s.step <= 1}


def test_runs_that_take_long_are_made_once_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function_side, "_CHEAP_S", 0.0)
    net, counts = network(), {"good": 0, "bad": 0}

    def decoded(name: str, threshold: float) -> Tensor:
        counts[name] += 1
        return decode.dual_cache(net, torch.tensor([PROMPT]), threshold=threshold)

    found = st.explain(net, lambda: decoded("good", 0.5), lambda: decoded("bad", 0.001))
    assert counts == {"good": 3, "bad": 4}
    assert found.verdict
