"""Recording foreign models and loops from outside."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipstone import DualCache, Fixed, NoCache, PrefixCache, Threshold, diagnose
from skipstone.engine import Engine, Settings
from skipstone.errors import ConfigError
from skipstone.foreign.attach.attach import attach
from skipstone.foreign.attach.attached import Attached
from skipstone.foreign.attach.layers import find_layers
from skipstone.record import OF_ATTENTION, Event, RunRecord, StepRecord, Tap, Trace
from skipstone.record.reader import open_trace
from skipstone.testing.tiny import EOS, MASK, tiny_model
from skipstone.tracing import Recorder
from specimens import bare, decode, hf_style, llada_style

MODEL = tiny_model()
PROMPT = [3, 1, 4, 1, 5, 9, 2]
IDS = torch.tensor([PROMPT])
SHAPE = Settings(gen_length=16, block_length=8, eos_stop=False)

Loop = Callable[[], Tensor]


def dual() -> tuple[nn.Module, Loop]:
    net = llada_style.from_model(MODEL, aligned=True)
    return net, lambda: decode.dual_cache(net, IDS)


def dual_threshold() -> tuple[nn.Module, Loop]:
    net = llada_style.from_model(MODEL, aligned=True)
    return net, lambda: decode.dual_cache(net, IDS, threshold=0.5)


def prefix() -> tuple[nn.Module, Loop]:
    net = hf_style.from_model(MODEL)
    return net, lambda: decode.prefix_cache(net, IDS)


def plain() -> tuple[nn.Module, Loop]:
    net = bare.from_model(MODEL)
    return net, lambda: decode.plain(net, IDS, MASK)


PAIRS = [
    pytest.param(dual, SHAPE.replace(cache=DualCache(), unmask=Fixed()), id="dual"),
    pytest.param(
        dual_threshold, SHAPE.replace(cache=DualCache(), unmask=Threshold(0.5)), id="threshold"
    ),
    pytest.param(prefix, SHAPE.replace(cache=PrefixCache(), unmask=Fixed()), id="prefix"),
    pytest.param(plain, SHAPE.replace(cache=NoCache(), unmask=Fixed()), id="plain"),
]


def ours(settings: Settings) -> Recorder:
    recorder = Recorder("full")
    Engine(MODEL, settings).generate(PROMPT, observer=recorder)
    return recorder


def committing(record: RunRecord) -> list[StepRecord]:
    """Steps that committed: the prefix loop calls the model once more at the end of a block."""
    return [step for step in record.steps if step.committed]


def events(record: RunRecord, kind: str) -> list[Event]:
    return [event for event in record.events if event.kind == kind]


@pytest.mark.parametrize(("foreign", "settings"), PAIRS)
def test_a_foreign_run_has_the_steps_of_our_own_run(
    foreign: Callable[[], tuple[nn.Module, Loop]], settings: Settings
) -> None:
    net, loop = foreign()
    with attach(net, mask_id=MASK, eos_id=EOS) as recorder:
        loop()
    theirs, mine = committing(recorder.records[0]), ours(settings).records[0].steps
    assert len(theirs) == len(mine)
    for a, b in zip(theirs, mine, strict=True):
        assert (a.block, a.step, a.refresh) == (b.block, b.step, b.refresh)
        assert (a.block_start, a.block_stop) == (b.block_start, b.block_stop)
        assert a.canvas == b.canvas
        for name in ("ids_after", "status_after", "rows", "finished"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        for name in ("position", "token", "runner_up", "rank", "age", "eligible", "committed"):
            mine_of = getattr(b.candidates, name)
            np.testing.assert_array_equal(getattr(a.candidates, name), mine_of, err_msg=name)
        np.testing.assert_allclose(a.candidates.confidence, b.candidates.confidence, atol=1e-9)


@pytest.mark.parametrize(("foreign", "settings"), PAIRS)
def test_states_and_logits_are_those_of_our_own_run(
    foreign: Callable[[], tuple[nn.Module, Loop]], settings: Settings
) -> None:
    net, loop = foreign()
    with attach(net, mask_id=MASK, eos_id=EOS, level="full") as recorder:
        loop()
    mine = ours(settings)
    taps = (Tap.STATE, Tap.LOGITS)
    assert distance(recorder.trace, mine.trace, taps) < 1e-5
    # Control: a run of other weights is further away.
    other = Recorder("full")
    Engine(tiny_model(1), settings).generate(PROMPT, observer=other)
    assert distance(recorder.trace, other.trace, taps) > 1e-2


def distance(theirs: Trace, mine: Trace, taps: tuple[Tap, ...]) -> float:
    """Largest difference over the tensors of all steps that committed, joined by position."""
    forwards = zip(committing(theirs.records[0]), committing(mine.records[0]), strict=False)
    same = {a.forward: b.forward for a, b in forwards}
    worst, compared = 0.0, 0
    for key in theirs.keys(0):
        if key.tap not in taps or key.forward not in same:
            continue
        a = theirs.tensor(0, key)
        b = mine.tensor(0, key._replace(forward=same[key.forward]))
        assert a is not None
        assert b is not None
        both = np.intersect1d(a.positions, b.positions)
        if both.size:
            worst = max(worst, float(np.abs(a.at(both) - b.at(both)).max()))
            compared += 1
    assert compared >= 3 * len(same)
    return worst


def test_ages_are_those_of_our_own_run() -> None:
    net, loop = dual()
    with attach(net) as recorder:
        loop()
    for a, b in zip(
        recorder.records[0].steps, ours(SHAPE.replace(unmask=Fixed())).records[0].steps, strict=True
    ):
        np.testing.assert_array_equal(a.entered_age, b.entered_age)
        np.testing.assert_array_equal(a.finished_age, b.finished_age)


def test_keys_and_values_are_those_of_the_foreign_cache() -> None:
    net, loop = dual()
    with attach(net, level="full") as recorder:
        loop()
    mine = ours(SHAPE.replace(unmask=Fixed()))
    assert distance(recorder.trace, mine.trace, (Tap.VALUE,)) < 1e-9
    # Keys lie in this cache before rotation, and are kept as they lie.
    assert distance(recorder.trace, mine.trace, (Tap.KEY,)) > 1e-2


@pytest.mark.parametrize("foreign", [dual_threshold, prefix, plain])
def test_attach_changes_no_bit_and_leaves_no_hook(
    foreign: Callable[[], tuple[nn.Module, Loop]],
) -> None:
    net, loop = foreign()
    state = torch.get_rng_state()
    without = loop()
    seen = list[Tensor]()
    handle = net.register_forward_hook(lambda *call: seen.append(logits_of(call[2])))
    loop()
    with attach(net, mask_id=MASK, level="full"):
        with_it = loop()
    handle.remove()
    assert torch.equal(without, with_it)
    half = len(seen) // 2
    assert all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def logits_of(output: object) -> Tensor:
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    assert isinstance(found, Tensor)
    return found.clone()


def test_a_loop_in_inference_mode_is_recorded_as_any_other() -> None:
    net, loop = dual()
    with attach(net) as plain_mode:
        loop()
    with attach(net) as inference, torch.inference_mode():
        loop()
    a, b = plain_mode.records[0], inference.records[0]
    assert a.outcome is not None
    assert b.outcome is not None
    assert a.outcome.tokens == b.outcome.tokens
    assert [s.committed for s in a.steps] == [s.committed for s in b.steps]


def test_an_exception_passes_through_and_leaves_the_run_unfinished(tmp_path: Path) -> None:
    net, _ = plain()
    calls = 0

    def stop(*call: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyError("of the user")

    handle = net.register_forward_pre_hook(stop)
    stopped = pytest.raises(KeyError, match="of the user")
    with stopped, attach(net, mask_id=MASK, path=tmp_path / "run.trace"):
        decode.plain(net, IDS, MASK)
    handle.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    record = open_trace(tmp_path / "run.trace").records[0]
    assert record.outcome is None
    assert len(record.steps) == 3


def test_a_run_that_ended_has_its_outcome_on_disk(tmp_path: Path) -> None:
    net, loop = dual()
    with attach(net, path=tmp_path / "run.trace", level="full") as recorder:
        out = loop()
        recorder.finish(out, texts=["an answer"])
    trace = open_trace(tmp_path / "run.trace")
    record = trace.records[0]
    assert record.outcome is not None
    assert record.outcome.text == "an answer"
    assert record.tokens == tuple(out[0, len(PROMPT) :].tolist())
    assert record.header.source == "dual_cache"
    # Values are attended as the cache has them; its keys are rotated anew in each call.
    heard = OF_ATTENTION - {Tap.BIAS, Tap.ATTENDED_VALUE, Tap.VISIBLE}
    assert {key.tap for key in trace.keys(0)} == {Tap.STATE, Tap.KEY, Tap.VALUE, Tap.LOGITS} | heard


def test_a_window_keeps_the_tensors_of_its_steps_only() -> None:
    net, loop = dual()
    with attach(net, level="window", window=((1, 2), (1, 3))) as recorder:
        loop()
    steps = {step.forward: (step.block, step.step) for step in recorder.records[0].steps}
    assert {steps[key.forward] for key in recorder.trace.keys(0)} == {(1, 2), (1, 3)}


def test_rows_that_skip_are_found_by_their_states(monkeypatch: pytest.MonkeyPatch) -> None:
    net = llada_style.from_model(MODEL, aligned=True)
    truth = list[list[bool]]()
    judge = net.model._stable

    def watched(*args: object) -> Tensor:
        stable = judge(*args)  # pyrefly: ignore[bad-argument-type]
        truth.append(stable.tolist())
        return stable

    monkeypatch.setattr(net.model, "_stable", watched)
    with attach(net) as recorder:
        decode.dual_cache(net, IDS, skip_layer_k=3, skip_threshold=0.9)
    judged = [s for s in recorder.records[0].steps if s.rows.size == 8 and s.step > 0]
    assert len(judged) == len(truth)
    for step, stable in zip(judged, truth, strict=True):
        assert step.skipped == tuple(step.rows[np.array(stable)].tolist())
        assert step.skip_layer == (3 if any(stable) else 0)
    # Control: some rows skipped in some calls, and not all.
    shares = [sum(stable) / len(stable) for stable in truth]
    assert any(0 < share < 1 for share in shares)
    outcome = recorder.records[0].outcome
    assert outcome is not None
    assert outcome.skip_share > 0


@pytest.mark.parametrize(
    ("start", "shift", "source"),
    [(dual, "replace_off_by_one", "replace_position"), (prefix, 1, "position_ids")],
)
def test_rows_put_in_the_wrong_place_are_named(
    start: Callable[[], tuple[nn.Module, Loop]], shift: object, source: str
) -> None:
    net, right = start()
    with attach(net) as good:
        right()
    assert not events(good.records[0], "positions_disagree")
    with attach(net) as bad:
        if isinstance(net, llada_style.LLaDAModelLM):
            decode.dual_cache(net, IDS, fault="replace_off_by_one")
        else:
            assert isinstance(net, hf_style.HFModelForMaskedLM)
            decode.prefix_cache(net, IDS, gen_length=16, block_length=8, shift=-1)
    found = events(bad.records[0], "positions_disagree")
    assert found
    assert found[0].positions_a[0] == len(PROMPT)
    assert found[0].positions_b[0] == len(PROMPT) - 1
    assert source in found[0].message
    assert "decode.py:" in found[0].source


def test_masks_that_are_left_are_counted() -> None:
    net, _ = dual()
    assert isinstance(net, llada_style.LLaDAModelLM)
    with attach(net) as short:
        out = decode.dual_cache(net, IDS, threshold=0.99, fault="budget")
    left = int((out == MASK).sum())
    assert left > 0
    outcome = short.records[0].outcome
    assert outcome is not None
    assert outcome.masks_left == left
    (event,) = events(short.records[0], "masks_left")
    assert event.numbers["masks_left"] == left
    with attach(net) as full:
        decode.dual_cache(net, IDS, threshold=0.99)
    assert not events(full.records[0], "masks_left")


def test_a_setting_that_is_not_what_was_stated_is_named_with_its_line() -> None:
    net, _ = dual()
    assert isinstance(net, llada_style.LLaDAModelLM)
    stated = {"skip_threshold": 0.9999, "skip_layer_k": 3, "gen_length": 16.0}
    with attach(net, stated=stated) as recorder:
        decode.dual_cache(net, IDS, skip_layer_k=3, skip_threshold=0.99)  # the wrong value
    record = recorder.records[0]
    (event,) = events(record, "stated_differs")
    assert event.numbers == {"stated": 0.9999, "received": 0.99}
    file, line = event.source.split(":")
    text = (
        Path(__file__)
        .with_name(Path(file).name)
        .read_text(encoding="utf-8")
        .splitlines()[int(line) - 1]
    )
    assert text.endswith("# the wrong value")
    assert record.header.settings["skip_threshold"] == "0.99"
    assert record.header.stated["skip_threshold"] == "0.9999"


def test_runs_in_one_block_are_told_apart() -> None:
    net, _ = dual()
    assert isinstance(net, llada_style.LLaDAModelLM)
    other = torch.tensor([[7, 7, 7]])
    with attach(net) as recorder:
        outs = [decode.dual_cache(net, ids, threshold=0.5) for ids in (IDS, IDS, other)]
    records = [trace.records[0] for trace in recorder.traces]
    assert [r.tokens for r in records] == [tuple(out[0, -16:].tolist()) for out in outs]
    assert all(r.outcome is not None for r in records)
    assert recorder.records[0].header.prompt_ids == (7, 7, 7)


@torch.no_grad()
def left_to_right(net: nn.Module, ids_BP: Tensor, blocks: int, size: int) -> Tensor:
    """A loop without arguments that tell, over a batch, written in place; commits one each."""
    canvas = ids_BP.new_full((ids_BP.shape[0], ids_BP.shape[1] + blocks * size), MASK)
    canvas[:, : ids_BP.shape[1]] = ids_BP
    for stop in range(ids_BP.shape[1] + size, canvas.shape[1] + 1, size):
        for _ in range(size):
            logits = net(canvas)
            masked = canvas == MASK
            masked[:, stop:] = False
            token, commit = decode.choose(logits, masked, MASK, 1, None)
            canvas[commit] = token[commit]
    return canvas


def test_blocks_are_read_from_the_order_of_commits_where_nothing_else_tells() -> None:
    net, _ = plain()
    with attach(net, mask_id=MASK) as recorder:
        left_to_right(net, IDS, 3, 6)
    steps = recorder.records[0].steps
    assert [(s.block, s.step) for s in steps] == [(b, i) for b in range(3) for i in range(6)]
    assert events(recorder.records[0], "blocks_inferred")
    with attach(net, mask_id=MASK, stated={"block_length": 9}) as told:
        left_to_right(net, IDS, 3, 6)
    assert told.records[0].steps[0].block_stop == len(PROMPT) + 9
    assert not events(told.records[0], "blocks_inferred")


def test_each_prompt_of_a_batch_has_the_record_of_its_own_run() -> None:
    net, _ = plain()
    pair = torch.tensor([PROMPT, PROMPT[::-1]])
    with attach(net, mask_id=MASK) as both:
        out = left_to_right(net, pair, 2, 4)
    with attach(net, mask_id=MASK) as alone:
        left_to_right(net, pair[1:], 2, 4)
    assert len(both.records) == 2
    assert both.records[1].header.sample == 1
    assert [r.tokens for r in both.records] == [tuple(row[len(PROMPT) :].tolist()) for row in out]
    for a, b in zip(both.records[1].steps, alone.records[0].steps, strict=True):
        assert a.committed == b.committed
    assert both.records[0].steps[0].committed != both.records[1].steps[0].committed


def test_a_token_that_is_not_the_best_has_its_own_probability() -> None:
    net, _ = plain()
    with attach(net, mask_id=MASK) as recorder, torch.no_grad():
        canvas = decode.start_canvas(IDS, 4, MASK)
        logits = net(canvas)
        probability = logits.double().softmax(-1)[0, 8]
        probability[MASK] = 0
        canvas[0, 8] = probability.topk(5).indices[4]
        token, best = int(canvas[0, 8]), int(probability.argmax())
        recorder.finish(canvas)
    candidate = recorder.records[0].steps[0].candidates.at(8)
    assert candidate is not None
    assert candidate.committed
    assert (candidate.token, candidate.runner_up) == (token, best)
    assert candidate.confidence == pytest.approx(float(probability[token]), abs=1e-12)
    assert candidate.margin < 0


def test_eos_written_without_scores_is_filled_and_not_committed() -> None:
    net = llada_style.from_model(MODEL)
    with attach(net) as recorder, torch.no_grad():
        canvas = decode.start_canvas(IDS, 8, MASK)
        past = net(canvas, use_cache=True).past_key_values
        replace = torch.zeros_like(canvas, dtype=torch.bool)
        replace[:, 7:11] = True
        net(canvas[:, 7:11], past_key_values=past, replace_position=replace, use_cache=True)
        canvas[:, 7:11] = 5
        canvas[:, 11:] = EOS
    step = recorder.records[0].steps[-1]
    assert step.status_after.tolist() == [3] * 4 + [4] * 4
    assert step.committed == (7, 8, 9, 10)


def test_without_a_last_canvas_there_is_no_outcome_but_finish_gives_one() -> None:
    net, _ = plain()
    for told in (False, True):
        with attach(net, mask_id=MASK) as recorder, torch.no_grad():
            canvas = decode.start_canvas(IDS, 4, MASK)
            net(canvas)
            if told:
                recorder.finish(torch.cat([IDS[0], torch.tensor([5, MASK, MASK, MASK])]))
        record = recorder.records[0]
        assert (record.outcome is not None) is told
        assert record.steps[0].committed == ((7,) if told else ())
    with attach(net, mask_id=MASK) as recorder:
        net(decode.start_canvas(IDS, 4, MASK))
        with pytest.raises(ConfigError, match=r"shape \(1, 2\).*\(1, 11\)"):
            recorder.finish(torch.tensor([1, 2]))


def test_reading_values_one_by_one_is_named_with_its_cost() -> None:
    net, _ = plain()

    def measured(*, one_by_one: bool) -> RunRecord:
        with attach(net, mask_id=MASK) as recorder, torch.no_grad():
            canvas = decode.start_canvas(IDS, 8, MASK)
            for i in range(8):
                logits = net(canvas)
                rows = logits[0].float()
                if one_by_one:
                    for _ in range(40):
                        [F.cosine_similarity(r[None], rows[:1], dim=-1).item() for r in rows]
                else:
                    F.cosine_similarity(rows, rows[:1], dim=-1).tolist()
                canvas[0, 7 + i] = logits[0, 7 + i, :MASK].argmax()
        return recorder.records[0]

    (event,) = events(measured(one_by_one=True), "measuring_cost")
    assert "test_attach.py:" in event.source
    assert event.numbers["reads_per_step"] >= 40 * 15
    assert event.numbers["share"] > 0.5
    assert not events(measured(one_by_one=False), "measuring_cost")


def test_comparing_a_part_of_the_vocabulary_is_named_with_what_it_misses() -> None:
    net, _ = plain()

    def compared(stop: int, change: int) -> RunRecord:
        with attach(net, mask_id=MASK) as recorder, torch.no_grad():
            canvas = decode.start_canvas(IDS, 4, MASK)
            samples = list[Tensor]()
            for token in (5, 5 + change):
                canvas[0, 7] = token
                samples.append(net(canvas)[:, 7:9, :stop].clone())
            torch.allclose(samples[0], samples[1], atol=100.0)
        return recorder.trace.records[0]

    (event,) = events(compared(stop=3, change=1), "partial_logits_compare")
    assert "test_attach.py:" in event.source
    assert event.numbers["entries"] == 3
    assert event.numbers["whole_difference"] > event.numbers["seen_difference"]
    assert event.numbers["passed"] == 1
    # Controls: nothing changed; most of the vocabulary is compared.
    assert not events(compared(stop=3, change=0), "partial_logits_compare")
    assert not events(compared(stop=60, change=1), "partial_logits_compare")


WAYS: list[Callable[[Tensor, Tensor], object]] = [
    lambda a, b: torch.allclose(a, b, atol=100.0),
    lambda a, b: torch.allclose(input=a, other=b, atol=100.0),
    lambda a, b: (a - b).abs().max(),
    torch.equal,
    lambda a, b: (a == b).all(),
    F.mse_loss,
    lambda a, b: F.l1_loss(a.float().cpu(), b.float().cpu()),
    torch.dist,
    lambda a, b: np.allclose(a.numpy(), b.numpy()),
    lambda a, b: np.abs(a.float().cpu().numpy() - b.float().cpu().numpy()).max(),
    lambda a, b: a.tolist() == b.tolist(),
    lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)),
    lambda a, b: torch.allclose(torch.stack([a, a]), torch.stack([b, b])),
    lambda a, b: torch.testing.assert_close(a, b, atol=100.0, rtol=1.0),
    lambda a, b: torch.allclose(copy.deepcopy(a).squeeze(0), b.squeeze(0)),
]
CUTS: list[Callable[[Tensor], Tensor]] = [
    lambda logits: logits[:, 7:9, :3].clone(),
    lambda logits: logits[..., :3][:, 7:9],
    lambda logits: logits[0, 7:9][:, [0, 1, 2]][None],
    lambda logits: logits[:, 7:9].narrow(-1, 0, 3),
    lambda logits: logits[0, 7][:3].detach().cpu()[None],
]


def compared_by(
    way: Callable[[Tensor, Tensor], object], cut: Callable[[Tensor], Tensor]
) -> list[Event]:
    net, _ = plain()
    with attach(net, mask_id=MASK) as recorder, torch.no_grad():
        canvas = decode.start_canvas(IDS, 4, MASK)
        samples = list[Tensor]()
        for token in (5, 6):
            canvas[0, 7] = token
            samples.append(cut(net(canvas)))
        way(samples[0], samples[1])
    return events(recorder.trace.records[0], "partial_logits_compare")


@pytest.mark.parametrize("way", WAYS)
def test_slices_are_followed_to_whatever_compares_them(
    way: Callable[[Tensor, Tensor], object],
) -> None:
    (event,) = compared_by(way, CUTS[0])
    assert "test_attach.py:" in event.source
    assert event.numbers["entries"] == 3
    assert event.numbers["whole_difference"] > event.numbers["seen_difference"]
    assert f"{event.numbers['whole_difference']:.3g}" in event.message


@pytest.mark.parametrize("cut", CUTS)
def test_slices_are_known_however_they_are_cut(cut: Callable[[Tensor], Tensor]) -> None:
    (event,) = compared_by(WAYS[0], cut)
    assert event.numbers["entries"] == 3


def test_arrays_that_are_only_kept_are_not_taken_for_compared() -> None:
    def kept(a: Tensor, b: Tensor) -> object:
        return [slice_.numpy() for slice_ in (a, b)]

    def apart(a: Tensor, b: Tensor) -> object:
        first = a.numpy()
        return first, b.numpy()

    assert not compared_by(kept, CUTS[0])
    assert not compared_by(apart, CUTS[0])


def test_a_run_that_was_stopped_is_told_apart_from_one_that_ended() -> None:
    net, _ = plain()

    def recorded(until: int) -> Attached:
        with suppress(KeyboardInterrupt), attach(net, mask_id=MASK) as recorder, torch.no_grad():
            canvas = decode.start_canvas(IDS, 8, MASK)
            for i in range(8):
                canvas[0, 7 + i] = net(canvas)[0, 7 + i, :MASK].argmax()
                if i == until:
                    raise KeyboardInterrupt
        return recorder

    found = diagnose(recorded(8), recorded(3))
    assert found.verdict == "inconclusive"
    assert "B did not end by itself: it was stopped after" in str(found.known)


def test_slices_that_are_kept_as_arrays_are_said_to_be_blind() -> None:
    net, _ = plain()

    def kept(stop: int) -> list[Event]:
        with attach(net, mask_id=MASK) as recorder, torch.no_grad():
            canvas, arrays = decode.start_canvas(IDS, 4, MASK), list[np.ndarray]()
            for token in (5, 6):
                canvas[0, 7] = token
                arrays.append(net(canvas)[0, -1, :stop].float().numpy().copy())
        assert not np.array_equal(arrays[0], arrays[1])
        return events(recorder.records[0], "partial_logits_kept")

    (event,) = kept(stop=3)
    assert "test_attach.py:" in event.source
    assert event.message.startswith("3 of ")
    assert event.count == 2
    # Most of the vocabulary is kept: nothing is said.
    assert not kept(stop=60)


def test_slices_of_two_recorded_runs_are_held_against_each_other_and_nothing_stays() -> None:
    net, _ = plain()
    kept = list[Tensor]()
    for token in (5, 6):
        with attach(net, mask_id=MASK) as recorder, torch.no_grad():
            canvas = decode.start_canvas(IDS, 4, MASK)
            canvas[0, 7] = token
            logits = net(canvas)
            kept.append(logits[:, 8:10, :3].clone())
            if len(kept) == 2:
                torch.allclose(kept[0], kept[1], atol=100.0)
    (event,) = events(recorder.records[0], "partial_logits_compare")
    assert event.numbers["whole_difference"] > event.numbers["seen_difference"]
    assert not vars(kept[0])
    alive = weakref.ref(kept[0])
    kept.clear()
    assert alive() is None


def test_a_skip_at_few_rows_is_told_that_it_cannot_pay() -> None:
    net, _ = dual()
    assert isinstance(net, llada_style.LLaDAModelLM)
    with attach(net) as recorder:
        decode.dual_cache(net, IDS, skip_layer_k=3)
    (event,) = events(recorder.records[0], "skip_cannot_pay")
    assert event.numbers["rows"] == 8
    assert event.numbers["skipped_row_layers"] == 0
    with attach(net) as without:
        decode.dual_cache(net, IDS)
    assert not events(without.records[0], "skip_cannot_pay")


def test_rows_without_positions_are_looked_for_in_the_canvas() -> None:
    net = llada_style.from_model(MODEL)
    with attach(net) as recorder, torch.no_grad():
        canvas = decode.start_canvas(IDS, 8, MASK)
        past = net(canvas, use_cache=True).past_key_values
        canvas[:, 7] = 5
        rows = torch.from_numpy(canvas[:, 4:9].numpy().copy())  # whence they come is lost
        net(rows, past_key_values=past)
    step = recorder.records[0].steps[1]
    assert step.rows.tolist() == [4, 5, 6, 7, 8]
    assert step.positions_from == "inferred"


class Pair(nn.Module):
    """Two lists that could be the layers, and one of norms that could not."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
        self.right = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(2) for _ in range(4))


def test_layers_are_found_in_every_style_or_the_error_says_what_there_is() -> None:
    for style in (llada_style, hf_style, bare):
        assert len(find_layers(style.from_model(MODEL))) == MODEL.config.num_layers
    assert len(find_layers(Pair(), "right")) == 3
    with pytest.raises(ConfigError, match=r"several lists.*left, right.*layers='left'"):
        find_layers(Pair())
    with pytest.raises(ConfigError, match="did you mean 'right'"):
        find_layers(Pair(), "rigth")
    with pytest.raises(ConfigError, match="has no ModuleList"):
        find_layers(nn.Linear(2, 2))


def test_what_attach_cannot_use_is_refused_with_the_remedy() -> None:
    net = bare.from_model(MODEL)
    with pytest.raises(ConfigError, match="pass mask_id"):
        attach(net)
    with pytest.raises(ConfigError, match="level is 'ful'; did you mean 'full'"):
        attach(net, mask_id=MASK, level="ful")  # pyrefly: ignore[bad-argument-type]
    with pytest.raises(ConfigError, match="a window belongs"):
        attach(net, mask_id=MASK, level="window")
    with pytest.raises(ConfigError, match=r"needs the torch\.nn\.Module"):
        attach("net", mask_id=MASK)  # pyrefly: ignore[bad-argument-type]
    with pytest.raises(ConfigError, match="was never called"), attach(net, mask_id=MASK):
        pass
