"""Sweeps: the grid, what is measured, what survives a kill, what is proven, who runs it."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pebble.questions import PATH, questions
from skipstone import (
    CheckpointError,
    ConfigError,
    CosineSkip,
    Engine,
    Factor,
    Fixed,
    Model,
    NoSkip,
    PromptError,
    Settings,
    Threshold,
    load,
)
from skipstone.cache import DllmCache, DyllmCache
from skipstone.cli.main import run
from skipstone.cli.prompts import read_questions
from skipstone.diff.agreement import Question, paired_difference
from skipstone.diff.judges import exact as exactly
from skipstone.diff.judges import find_judge, number
from skipstone.extras import requirements
from skipstone.models.parts.decoder import Decoder
from skipstone.report.facts.effort import Effort
from skipstone.sweep.causes import Explained, explain
from skipstone.sweep.chart import front
from skipstone.sweep.executors import (
    Executor,
    Local,
    Ray,
    Serial,
    Units,
    parse_executor,
    visible_gpu,
)
from skipstone.sweep.grid import BASELINE, Setting, parse_grid
from skipstone.sweep.measure import NOT_FINISHED, Measurement, flops
from skipstone.sweep.run import Sweep, exact, run_sweep
from skipstone.sweep.summary import Assessment
from skipstone.sweep.timing import filled
from skipstone.sweep.units import CauseUnit, DecodeUnit, WorkerSetup, decode_units
from skipstone.sweep.worker import Found
from skipstone.testing.checkpoint import write_checkpoint
from skipstone.testing.tiny import tiny_model
from skipstone.tracing import Recorder
from skipstone.tracing.experiments.runner import Side
from tests.helpers.waiting import wait_until

BASE = Settings(gen_length=24, block_length=8, eos_stop=False)
EXACT = exact(BASE)
GRID = "skip_threshold=0.2,0.9 skip_layer_k=2 skip_outlier=-1 unmask=fixed,threshold:0.3"
QUESTIONS = [Question(f"prompt {i}", answer="a" if i % 2 else None) for i in range(6)]
TIMES = ("seconds", "tokens_per_second", "timed")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(write_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="module")
def settings() -> tuple[Setting, ...]:
    return parse_grid(GRID, BASE, EXACT).settings


@pytest.fixture(scope="module")
def whole(
    tiny: Model, settings: Sequence[Setting], tmp_path_factory: pytest.TempPathFactory
) -> Sweep:
    """A sweep that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return run_sweep(tiny, QUESTIONS, settings, folder, baseline=EXACT)


def timeless(sweep: Sweep) -> list[dict[str, object]]:
    rows = [asdict(m) for m in sweep.measurements]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


# --- the grid -----------------------------------------------------------------------------------


def test_a_grid_is_every_combination_of_its_values() -> None:
    grid = parse_grid(
        "skip_threshold=0.9,0.99 skip-layer-k=4 unmask=fixed,threshold:0.7", BASE, EXACT
    )
    assert [s.settings for s in grid.settings] == [
        BASE.replace(skip=CosineSkip(skip_layer_k=4, skip_threshold=threshold), unmask=unmask)
        for threshold in (0.9, 0.99)
        for unmask in (Fixed(), Threshold(0.7))
    ]
    assert grid.settings[0].name == "skip_threshold=0.9 skip_layer_k=4 unmask=fixed"
    assert grid.settings[1].spec == (
        "unmask=threshold:value=0.7 skip=cosine:skip_layer_k=4,skip_threshold=0.9 gen_length=24 "
        "block_length=8 eos_stop=false"
    )


def test_commas_within_a_policy_do_not_end_it() -> None:
    text = "skip=cosine:skip_layer_k=4,skip_threshold=0.9,none unmask=factor:2,threshold:value=0.5"
    found = {(s.settings.skip, s.settings.unmask) for s in parse_grid(text, BASE, EXACT).settings}
    skips = CosineSkip(skip_layer_k=4, skip_threshold=0.9), NoSkip()
    assert found == {(s, u) for s in skips for u in (Factor(2.0), Threshold(0.5))}


def test_settings_that_decode_alike_are_run_once_and_that_is_said() -> None:
    grid = parse_grid("skip_threshold=0.9,1 skip_layer_k=2,4 unmask=fixed cache=none", BASE, EXACT)
    assert [s.settings.skip for s in grid.settings] == [
        CosineSkip(skip_layer_k=k, skip_threshold=0.9) for k in (2, 4)
    ]
    assert grid.notes == ("skip=none unmask=fixed cache=none is the baseline",) * 2
    merged = parse_grid("skip_threshold=0.9,1 skip_layer_k=2,4", BASE, EXACT)
    assert [s.name for s in merged.settings][-1] == "skip=none"
    assert "1 settings decode like another" in merged.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skip_treshold=0.9", "did you mean 'skip_threshold'"),
        ("model=pebble", "give it as --model"),
        ("skip_threshold=2", "grid setting 'skip_threshold=2'.* must be a cosine"),
        ("skip_threshold=high", "must be a number"),
        ("unmask=threshhold:0.7", "did you mean 'threshold'"),
        ("skip=none skip_layer_k=4", "which is part of it"),
        ("gen_length=8,8", "twice in the grid"),
        ("gen_length=8 gen_length=16", "given twice"),
        ("gen_length", "no setting"),
        ("", "nothing but the baseline"),
    ],
)
def test_a_grid_that_is_wrong_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_grid(text, EXACT, EXACT)


# --- judges -------------------------------------------------------------------------------------


def test_numbers_are_compared_by_value_and_the_last_one_counts() -> None:
    assert number("12 and 30 make 42.", "42")
    assert number("It is 1,234.50 dollars", "1234.5")
    assert not number("42 or 43", "42")
    assert not number("none", "42")
    assert exactly(" a  b", "a b")
    assert not exactly("a b.", "a b")


def right_here(text: str, answer: str) -> bool:
    return text.endswith(answer)


def test_any_takes_each_of_several_answers_and_no_other() -> None:
    judge = find_judge("any")
    assert judge(" 1 2 / 2  1", "1 2 / 2 1\n2 1 / 1 2")
    assert judge("2 1 / 1 2", "1 2 / 2 1\n\n2 1 / 1 2\n")
    assert not judge("1 2 / 1 2", "1 2 / 2 1\n2 1 / 1 2")
    assert not judge("", "a\n\nb")
    assert not judge("a b", "a\nb")


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=6), st.randoms())
def test_reordered_takes_every_order_but_the_given_one(items: list[str], rng: Random) -> None:
    given_row, judge = ", ".join(items), find_judge("reordered")
    mixed = rng.sample(items, len(items))
    assert judge(f"{', '.join(mixed)}.", given_row) == (mixed != items)
    assert not judge(given_row, given_row)
    assert not judge(", ".join([*mixed, "g"]), given_row)
    assert not judge(", ".join([*mixed[1:], "g"]), given_row)
    assert not judge(", ".join(mixed[1:]), given_row)


def test_a_list_of_one_item_has_no_other_order(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "p", "answer": "Anna.", "judge": "reordered"}))
    with pytest.raises(PromptError, match=r"line 1: answer 'Anna.' has no other order"):
        read_questions(path, "--prompts")


def broken_judge(text: str, answer: str) -> bool:
    raise KeyError(text)


def test_a_function_judges_by_its_import_path(tmp_path: Path) -> None:
    name = f"{__name__}:right_here"
    assert Question("p", "b", judge=name).is_right("ab") is True
    assert Question("p", "b", judge=name).is_right("ba") is False
    assert Question("p").is_right("ba") is None
    with pytest.raises(ConfigError, match=r"broken_judge.*KeyError"):
        Question("p", "b", judge=f"{__name__}:broken_judge").is_right("x")
    for wrong, message in (
        ("exakt", "did you mean 'exact'"),
        ("no.such:thing", "cannot be imported"),
        (f"{__name__}:BASE", "no function"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_judge(wrong)
    # A file of prompts may name a function only if the user named it too.
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "p", "answer": "b", "judge": "os:system"}))
    with pytest.raises(PromptError, match=r"line 1 .* allow it with --judge os:system"):
        read_questions(path, "--prompts")
    path.write_text(json.dumps({"prompt": "p", "answer": "b", "judge": name}))
    assert read_questions(path, "--prompts", name)[0].judge == name
    path.write_text(json.dumps({"prompt": "p", "answer": "b", "judge": "number"}))
    with pytest.raises(PromptError, match=r"line 1: answer 'b' is no number"):
        read_questions(path, "--prompts")


def test_the_questions_of_the_embedded_model_are_held_out_and_fresh() -> None:
    assert PATH.read_text(encoding="utf-8") == questions()
    found = read_questions(Path("pebble"), "--prompts")
    assert len(found) == len({q.prompt for q in found}) == 1050
    assert {q.judge for q in found} == {"exact", "any", "reordered"}


# --- measuring ----------------------------------------------------------------------------------


def test_each_measurement_is_what_the_engine_does(
    tiny: Model, settings: Sequence[Setting], whole: Sweep
) -> None:
    assert len(whole.measurements) == len(QUESTIONS) * (1 + len(settings))
    by_place = {(m.prompt, m.setting): m for m in whole.measurements}
    for place, question in enumerate(QUESTIONS[:2]):
        base = Engine(tiny, EXACT).generate(question.prompt)
        for setting in (Setting(BASELINE, EXACT), *settings):
            result = Engine(tiny, setting.settings).generate(question.prompt)
            m = by_place[place, setting.name]
            assert (m.tokens, m.text) == (result.tokens, result.text)
            assert (m.forwards, m.skip_share) == (
                result.stats.num_forwards,
                result.stats.skip_share,
            )
            assert m.same_answer == (result.text == base.text)
            same = [a == b for a, b in zip(result.tokens, base.tokens, strict=True)]
            assert m.same_tokens == pytest.approx(sum(same) / len(same))
            assert m.right == question.is_right(result.text)
            assert m.seconds > 0
    # Controls: skips do act, some settings differ, and the baseline never does.
    assert any(m.skip_share > 0 for m in whole.measurements)
    assert any(not m.same_answer and m.kind for m in whole.measurements)
    assert all(m.same_answer and not m.kind for m in whole.measurements if m.setting == BASELINE)


def test_a_run_without_shortcuts_takes_the_operations_of_its_rows(whole: Sweep) -> None:
    base, *others = (m for m in whole.measurements if m.prompt == 0)
    length = len("prompt 0") + 24
    # No cache: every step computes every row; what the template adds makes it a few rows more.
    assert base.forwards == 24
    rows = base.flops / 24 / 2 / (2 * 16 * (4 * 16 + 3 * 24))
    assert rows > length
    assert all(m.flops < base.flops for m in others)


def test_decoded_together_or_alone_prompts_give_the_same(
    tiny: Model, settings: Sequence[Setting], whole: Sweep, tmp_path: Path
) -> None:
    alone = run_sweep(tiny, QUESTIONS, settings, tmp_path, baseline=EXACT, time_every=1)
    assert timeless(alone) == timeless(whole)
    assert all(m.timed for m in alone.measurements)
    assert [m.prompt for m in whole.measurements if m.timed] == [0] * (1 + len(settings))


def test_decoding_together_changes_no_answer_that_is_explained(
    tiny: Model, settings: Sequence[Setting], tmp_path: Path
) -> None:
    found = [
        run_sweep(
            tiny,
            QUESTIONS[:2],
            settings[:2],
            tmp_path / str(every),
            baseline=EXACT,
            explain=float("inf"),
            time_every=every,
        )
        for every in (1, 16)
    ]
    assert timeless(found[0]) == timeless(found[1])
    assert any(m.cause and m.prompt == 1 for m in found[0].measurements)


def test_rows_and_operations_count_the_shadows_of_a_policy(tiny: Model, tmp_path: Path) -> None:
    wino = EXACT.replace(unmask="wino")
    sweep = run_sweep(tiny, QUESTIONS[:2], [Setting("wino", wino)], tmp_path, baseline=EXACT)
    for m, question in zip(sweep.measurements[1::2], QUESTIONS, strict=False):
        steps = Engine(tiny, wino).generate(question.prompt).stats.steps
        shadows = sum(step.shadow_rows for step in steps)
        assert shadows > 0
        assert m.rows == sum(step.rows for step in steps) + shadows
        config, length = tiny.config, len(tiny.text.encode(question.prompt)) + 24
        layer = 2 * config.weights_used(0) + 4 * length * config.query_width
        assert m.flops >= m.rows * layer * config.num_layers


def test_mlps_that_are_left_out_are_no_operations(tiny: Model) -> None:
    cache = DyllmCache(0.9, 1)
    result = Engine(tiny, EXACT, cache=cache).generate(QUESTIONS[0].prompt)
    config, length = tiny.config, result.prompt_tokens + len(result.tokens)
    attention = config.width * (2 * config.query_width + config.kv_width)
    row_layers = sum(step.rows for step in result.stats.steps) * config.num_layers
    left_out = sum(step.skipped_mlps for step in result.stats.steps)
    assert row_layers > left_out > row_layers / 4
    attended = row_layers * (2 * attention + 4 * length * config.query_width)
    mlps = (row_layers - left_out) * 2 * 3 * config.width * config.mlp_width
    assert flops(config, result, 0) == attended + mlps


def test_values_by_which_rows_are_chosen_are_operations(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, computed = Decoder.values, list[int]()

    def counted(self: Decoder, index: int, x_ND: torch.Tensor) -> torch.Tensor:
        computed.append(len(x_ND))
        return values(self, index, x_ND)

    monkeypatch.setattr(Decoder, "values", counted)
    recorder = Recorder()
    cache = DllmCache(prompt_every=8, response_every=4)
    result = Engine(tiny, EXACT, cache=cache).generate(QUESTIONS[0].prompt, observer=recorder)
    config, length = tiny.config, result.prompt_tokens + len(result.tokens)
    row_layers = sum(step.rows for step in result.stats.steps) * config.num_layers
    left_out = sum(step.skipped_row_layers for step in result.stats.steps)
    assert left_out > row_layers / 8
    assert Effort.of(recorder.records[0]).row_layers == row_layers - left_out
    layer = 2 * config.weights_used(1) + 4 * length * config.query_width
    by_hand = (row_layers - left_out) * layer
    by_hand += sum(computed) * 2 * config.width * config.num_kv_heads * config.head_width
    assert computed
    assert flops(config, result, 0) == by_hand


def test_times_that_were_not_measured_are_estimated_from_those_that_were(whole: Sweep) -> None:
    def run(prompt: int, name: str, forwards: int, rows: int, *, timed: bool) -> Measurement:
        seconds = (2 if name == "slow" else 1) * (0.01 * forwards + 0.001 * rows)
        return replace(
            whole.measurements[0],
            prompt=prompt,
            setting=name,
            forwards=forwards,
            rows=rows,
            seconds=seconds if timed else float("nan"),
            timed=timed,
            generated=10,
        )

    timed = [run(0, "a", 10, 300, timed=True), run(0, "b", 3, 200, timed=True)]
    left = [run(1, "a", 20, 900, timed=False), run(1, "b", 1, 50, timed=False)]
    *kept, a, b = filled([*timed, *left])
    assert kept == timed
    assert (a.seconds, b.seconds) == (pytest.approx(1.1), pytest.approx(0.06))
    assert a.tokens_per_second == pytest.approx(10 / 1.1)
    # A setting whose policy costs more than forwards and rows say keeps its factor.
    slow = run(0, "slow", 10, 300, timed=True)
    found = filled([*timed, slow, run(1, "slow", 10, 300, timed=False), *left])[3]
    assert found.seconds == pytest.approx(slow.seconds)


@pytest.mark.parametrize("every", [0, -3, 1.5, "4", True])
def test_how_many_are_timed_is_a_number(tiny: Model, tmp_path: Path, every: object) -> None:
    with pytest.raises(ConfigError, match="time_every"):
        run_sweep(tiny, QUESTIONS, [], tmp_path, baseline=EXACT, time_every=every)  # pyrefly: ignore[bad-argument-type]


def test_settings_take_turns(settings: Sequence[Setting]) -> None:
    plan = WorkerSetup("m", "cpu", "float32", 1, EXACT, tuple(settings))
    first = [plan.in_turn(i)[0].name for i in range(5)]
    assert len(set(first)) == 5
    assert all(set(plan.in_turn(i)) == set(plan.all) for i in range(5))


# --- resuming -----------------------------------------------------------------------------------


def test_a_sweep_goes_on_where_it_was_and_takes_more_prompts_later(
    tiny: Model, settings: Sequence[Setting], whole: Sweep, tmp_path: Path
) -> None:
    told = list[tuple[int, int]]()

    def sweep(limit: int | None) -> Sweep:
        return run_sweep(
            tiny,
            QUESTIONS,
            settings,
            tmp_path,
            baseline=EXACT,
            limit=limit,
            progress=lambda done, total: told.append((done, total)),
        )

    sweep(2)
    first = sweep(2)
    assert told == [(0, 2), (1, 2), (2, 2), (2, 2)]
    more = sweep(None)
    assert told[4:] == [(2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]
    assert more.measurements[: len(first.measurements)] == first.measurements
    assert timeless(more) == timeless(whole)


def test_a_folder_of_another_sweep_is_refused(
    tiny: Model, settings: Sequence[Setting], whole: Sweep, tmp_path: Path
) -> None:
    folder = whole.store.folder
    cases: list[tuple[dict[str, object], str]] = [
        ({"questions": QUESTIONS[:3]}, "another prompts"),
        ({"settings": settings[1:]}, "another list of settings"),
        ({"baseline": EXACT.replace(gen_length=16)}, r"baseline \(gen_length=24, now 16"),
    ]
    for change, message in cases:
        chosen = {"questions": QUESTIONS, "settings": settings, "baseline": EXACT} | change
        with pytest.raises(ConfigError, match=message):
            run_sweep(tiny, folder=folder, **chosen)  # pyrefly: ignore[bad-argument-type]
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds other files"):
        run_sweep(tiny, QUESTIONS, settings, tmp_path, baseline=EXACT)


def test_a_damaged_file_is_named(tiny: Model, settings: Sequence[Setting], tmp_path: Path) -> None:
    run_sweep(tiny, QUESTIONS[:2], settings, tmp_path, baseline=EXACT)
    part = tmp_path / "parts" / "000001.parquet"
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(ConfigError, match=r"000001.parquet is damaged .* delete it"):
        run_sweep(tiny, QUESTIONS[:2], settings, tmp_path, baseline=EXACT)


# A command that kills itself when three prompts are finished, and says who worked for it.
KILLED = """
import multiprocessing, os, signal
from skipstone.__main__ import main
from skipstone.sweep.store import Store

add, added = Store.add, []

def add_and_die(store, found):
    add(store, found)
    added.append(found)
    if len(added) == 3:
        pids = " ".join(str(one.pid) for one in multiprocessing.active_children())
        os.write(1, pids.encode())
        os.kill(os.getpid(), signal.SIGKILL)

Store.add = add_and_die
main()
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_sweep_leaves_no_worker_and_goes_on_to_the_same_rows(
    tiny: Model, settings: Sequence[Setting], tmp_path: Path
) -> None:
    prompts = [Question(f"prompt {i}") for i in range(12)]
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(q.prompt for q in prompts))
    command = f"sweep --prompts {file} --model {tiny.name} --gen-length 24 --block-length 8"
    command += f" --no-eos-stop -o {tmp_path / 'killed'} --executor local:2"
    # Not by pipes, which those who work for it would hold open.
    out, parts = tmp_path / "out", tmp_path / "killed" / "parts"
    with out.open("w") as stdout, (tmp_path / "errors").open("w+") as stderr:
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, *command.split(), "--grid", GRID],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
            stdout=stdout,
            stderr=stderr,
            timeout=300,
        )
    assert killed.returncode == -signal.SIGKILL, (tmp_path / "errors").read_text()
    workers = [int(pid) for pid in out.read_text().split()]
    assert len(workers) == 2
    wait_until(lambda: not any(alive(worker) for worker in workers))
    finished = {p.name: p.read_bytes() for p in parts.glob("0*.parquet")}
    assert len(finished) == 3
    went_on = run_sweep(tiny, prompts, settings, tmp_path / "killed", baseline=EXACT)
    undisturbed = run_sweep(tiny, prompts, settings, tmp_path / "serial", baseline=EXACT)
    assert timeless(went_on) == timeless(undisturbed)
    assert all((parts / name).read_bytes() == content for name, content in finished.items())


# --- executors ----------------------------------------------------------------------------------


def test_executors_are_named() -> None:
    assert parse_executor("serial") == Serial()
    assert parse_executor("local:3") == Local(3)
    assert parse_executor("ray") == Ray()
    for wrong, message in (
        ("local", "like local:2"),
        ("local:0", "like local:2"),
        ("rai", "did you mean 'ray'"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_executor(wrong)


def test_each_worker_sees_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [visible_gpu(i) for i in range(2)] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    assert [visible_gpu(i) for i in range(2)] == ["3", "GPU-5"]
    plan = WorkerSetup("m", "cuda", "bfloat16", 1, EXACT, ())
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ConfigError, match="needs as many GPUs, and there are 2"):
        next(Local(3).run(tiny_model(), plan, lambda workers: [DecodeUnit(((0, "a"),))]))


def test_a_killed_worker_loses_nothing(
    tiny: Model, settings: Sequence[Setting], whole: Sweep, tmp_path: Path
) -> None:
    killed = list[int | None]()

    def kill_one(done: int, total: int) -> None:
        if done == 1:
            worker = multiprocessing.active_children()[0]
            worker.kill()
            killed.append(worker.pid)

    sweep = run_sweep(
        tiny, QUESTIONS, settings, tmp_path, baseline=EXACT, executor=Local(2), progress=kill_one
    )
    assert killed
    assert timeless(sweep) == timeless(whole)


def test_the_error_of_a_worker_is_the_users_error(
    settings: Sequence[Setting], tmp_path: Path
) -> None:
    lost = load(write_checkpoint(tmp_path / "model"))
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="safetensors"):
        run_sweep(lost, QUESTIONS, settings, tmp_path / "o", baseline=EXACT, executor=Local(1))


def test_units_are_as_small_as_the_workers_need() -> None:
    prompts = [(place, str(place)) for place in range(64)]
    for workers, most in ((1, 4), (4, 3), (16, 1), (1000, 1)):
        timed, *others = decode_units(prompts, 64, workers)
        assert (timed.prompts, timed.timed) == (tuple(prompts[:1]), True)
        assert [p for unit in others for p in unit.prompts] == prompts[1:]
        assert max(len(unit.prompts) for unit in others) == most


def swept_with_causes(
    tiny: Model, folder: Path, executor: Executor, explain: float = float("inf")
) -> Sweep:
    short = EXACT.replace(gen_length=4, block_length=4)
    orders = [Setting(order, short.replace(unmask=order)) for order in ("entropy", "margin")]
    return run_sweep(
        tiny,
        QUESTIONS[:2],
        orders,
        folder,
        baseline=short,
        explain=explain,
        executor=executor,
    )


@pytest.fixture(scope="module")
def explained(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """One process's sweep with causes, that nothing disturbed."""
    return swept_with_causes(tiny, tmp_path_factory.mktemp("explained"), Serial())


def test_one_process_and_three_find_the_same_causes(
    tiny: Model, explained: Sweep, tmp_path: Path
) -> None:
    assert timeless(swept_with_causes(tiny, tmp_path, Local(3))) == timeless(explained)
    assert {bool(m.cause) for m in explained.measurements} == {True, False}
    parts = [path.name for path in (tmp_path / "parts").iterdir()]
    assert sorted(parts) == ["000000.parquet", "000001.parquet"]


class Counting:
    """Counts what it gives, and stops before the n-th cause."""

    def __init__(self, most: int) -> None:
        self.most, self.causes, self.prompts = most, 0, 0

    def run(self, model: Model, plan: WorkerSetup, units: Units) -> Iterator[Found]:
        for found in Serial().run(model, plan, units):
            if isinstance(found, Explained):
                if self.causes == self.most:
                    raise KeyboardInterrupt
                self.causes += 1
            else:
                self.prompts += 1
            yield found


def test_a_cause_that_was_found_is_not_looked_for_again(
    tiny: Model, explained: Sweep, tmp_path: Path
) -> None:
    stopped, rest = Counting(2), Counting(99)
    with pytest.raises(KeyboardInterrupt):
        swept_with_causes(tiny, tmp_path, stopped)
    assert timeless(swept_with_causes(tiny, tmp_path, rest)) == timeless(explained)
    changed = [m for m in explained.measurements if m.cause]
    assert len(changed) > 2
    # Control: the last of a prompt's causes is missing, and one of them was found.
    assert [m.prompt for m in changed][1:3] == [1, 1]
    assert rest.causes == len(changed) - 2
    assert stopped.prompts + rest.prompts == 2


def impatient(model: Model, plan: WorkerSetup, unit: CauseUnit, trusted: Side) -> Explained:
    """Finds every cause, but those of prompt 1 in no time below 5 s."""
    found = explain(model, replace(plan, explain=float("inf")), unit, trusted)
    if unit.prompt == 1 and plan.explain < 5:
        found = replace(found, cause=NOT_FINISHED, proof="", evidence="so far nothing")
    return replace(found, time_limit=plan.explain)


def test_more_time_looks_again_for_causes_that_were_not_found_and_for_no_others(
    tiny: Model, explained: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skipstone.sweep.worker.explain", impatient)

    def again(seconds: float, most: int = 99) -> tuple[Sweep | None, int, int]:
        counting = Counting(most)
        try:
            sweep = swept_with_causes(tiny, tmp_path, counting, seconds)
        except KeyboardInterrupt:
            sweep = None
        return sweep, counting.prompts, counting.causes

    def causes(sweep: Sweep | None) -> list[tuple[int, str]]:
        assert sweep is not None
        return [(m.prompt, m.cause) for m in sweep.measurements if not m.same_answer]

    def parts() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}

    known = causes(explained)
    assert [prompt for prompt, _ in known] == [0, 1, 1]
    sweep, *work = again(0)
    assert (causes(sweep), work) == ([(0, ""), (1, ""), (1, "")], [2, 0])
    # Those that nobody asked for; no prompt is decoded again.
    sweep, *work = again(1)
    assert (causes(sweep), work) == ([known[0], (1, NOT_FINISHED), (1, NOT_FINISHED)], [0, 3])
    before = parts()
    for shorter in (0, 0.5, 1):
        sweep, *work = again(shorter)
        assert ([cause for _, cause in causes(sweep)].count(NOT_FINISHED), work) == (2, [0, 0])
    assert parts() == before
    # A stop between the two: what was there stays, and so does the one that was found.
    assert again(60, most=1) == (None, 0, 1)
    stopped = parts()
    assert {name: stopped[name] for name in before} == before
    assert len(stopped) == len(before) + 1
    sweep, *work = again(float("inf"))
    assert (causes(sweep), work) == (known, [0, 1])
    assert sweep is not None
    assert [m.time_limit for m in sweep.measurements if m.cause] == [1, 60, float("inf")]
    assert sorted(parts()) == sorted(before)
    assert parts()["000000.parquet"] == before["000000.parquet"]
    assert again(float("inf"))[1:] == (0, 0)


@pytest.mark.ray
def test_ray_gives_the_same_rows(
    tiny: Model, explained: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("ray") is None:
        pytest.skip("no Ray")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    assert timeless(swept_with_causes(tiny, tmp_path, Ray())) == timeless(explained)
    # It is imported where a cluster is set up.
    import ray

    assert not ray.is_initialized()


# --- what is proven -----------------------------------------------------------------------------


def planted(
    name: str, total: int, differing: int, seconds: float, wrong: int = 0
) -> list[Measurement]:
    """Measurements of which the first few differ, and the first few are wrong."""
    one = Measurement(
        prompt=0,
        setting=name,
        text="a",
        tokens=(1, 2),
        right=True,
        same_answer=True,
        same_tokens=1.0,
        kind="",
        block=-1,
        step=-1,
        position=-1,
        forward=-1,
        forwards=10,
        rows=40,
        generated=2,
        masks_left=0,
        skip_share=0.0,
        flops=100.0,
        seconds=seconds,
        tokens_per_second=2 / seconds,
    )
    other = replace(one, text="b", same_answer=False, same_tokens=0.5, kind="token", forward=3)
    return [
        replace(other if i < differing else one, prompt=i, right=i >= wrong) for i in range(total)
    ]


def judged(total: int, bound: float, **found: tuple[int, float]) -> Assessment:
    names = [BASELINE, *found]
    rows = planted(BASELINE, total, 0, 1.0)
    for name, (differing, seconds) in found.items():
        rows += planted(name, total, differing, seconds, wrong=differing)
    return Assessment(rows, [Setting(n, Settings()) for n in names], "answer", bound)


def test_the_fastest_setting_within_the_bound_is_recommended() -> None:
    found = judged(500, 0.05, safe=(0, 0.8), fast=(3, 0.5), wild=(100, 0.1))
    assert found.recommendation.setting == "fast"
    by_name = {s.setting: s for s in found.summaries}
    # Exact, one-sided, and its doubt shared out among three: P(X <= 3) = 0.05 / 3 at the bound.
    from scipy.stats import binom

    assert binom.cdf(3, 500, by_name["fast"].proven) == pytest.approx(0.05 / 3)
    assert by_name["fast"].proven < 0.05 < by_name["wild"].proven
    assert by_name["fast"].speedup.value == pytest.approx(2.0)
    assert by_name["fast"].first_forward == 3
    assert (by_name["wild"].right, by_name["wild"].known) == (400, 500)
    change = by_name["wild"].right_change
    assert change is not None
    assert change.value == pytest.approx(-0.2)
    assert change.low < change.value < change.high < 0


def test_a_lead_within_the_noise_is_none() -> None:
    # As fast but for noise: the one that is proven better; one clearly faster wins nevertheless.
    assert judged(500, 0.05, few=(0, 0.505), some=(3, 0.5)).recommendation.setting == "few"
    assert judged(500, 0.05, few=(0, 0.55), some=(3, 0.5)).recommendation.setting == "some"


def test_nothing_is_recommended_where_nothing_is_proven_or_faster() -> None:
    assert judged(500, 0.001, fast=(0, 0.5)).recommendation.setting is None
    few = judged(20, 0.01, fast=(0, 0.5))
    assert few.recommendation.setting is None
    assert f"takes {few.needed} prompts" in few.recommendation.reason
    # What it names is enough, and one fewer is not.
    assert judged(few.needed, 0.01, fast=(0, 0.5)).recommendation.setting == "fast"
    assert judged(few.needed - 1, 0.01, fast=(0, 0.5)).recommendation.setting is None
    slow = judged(500, 0.05, slow=(0, 1.5)).recommendation
    assert slow.setting is None
    assert "none of them is faster" in slow.reason
    wild = judged(500, 0.05, wild=(100, 0.1)).recommendation
    assert "may differ for 5% of prompts or more" in wild.reason


def test_choosing_among_more_settings_needs_more_proof() -> None:
    alone = judged(400, 0.01, a=(0, 0.5))
    among = judged(400, 0.01, **{f"s{i}": (0, 0.5) for i in range(30)})
    assert alone.recommendation.setting == "a"
    assert among.recommendation.setting is None
    assert among.needed > alone.needed


def test_intervals_hold_what_they_promise_where_nothing_was_seen() -> None:
    low, high = paired_difference(0, 0, 50, 0.95)
    assert low == -high
    assert 0.05 < high < 0.1
    same = judged(50, 0.1, a=(0, 0.5)).summaries[1].same_tokens
    assert (same.value, same.high) == (1, 1)
    assert same.low == pytest.approx(0.025 ** (1 / 50))
    some = judged(50, 0.1, a=(10, 0.5)).summaries[1].same_tokens
    assert some.value == pytest.approx(0.9)
    assert some.low < some.value < some.high < 1


def test_the_front_is_what_nothing_beats() -> None:
    found = judged(100, 0.1, a=(0, 0.8), b=(5, 0.5), slow=(5, 0.9), wild=(50, 0.1))
    assert [s.setting for s in front(found.summaries)] == ["a", "b", "wild"]


# --- the command --------------------------------------------------------------------------------


def test_the_command_writes_everything_and_says_the_same_again(
    tiny: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as pq

    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "<b>one", "answer": 1}\n{"prompt": "two"}\n')
    command = ["sweep", "--prompts", str(prompts), "--model", tiny.name, "--gen-length", "16"]
    command += ["--no-eos-stop", "-o", str(tmp_path / "o"), "--bound", "5%"]
    command += ["--grid", "unmask=threshold:0.1,threshold:</script>"]
    assert run(command) == 2
    command[-1] = "unmask=threshold:0.1,fixed skip=none cache=none,dual"
    assert run([*command, "--json"]) == 0
    out = capsys.readouterr()
    report = json.loads(out.out)
    assert "is the baseline" in out.err
    assert "a bound of 5% takes at least" in out.err
    assert [s["setting"] for s in report["settings"]] == [
        "baseline",
        "unmask=threshold:0.1 skip=none cache=none",
        "unmask=threshold:0.1 skip=none cache=dual",
        "unmask=fixed skip=none cache=dual",
    ]
    assert report["recommendation"]["setting"] is None
    assert json.loads((tmp_path / "o" / "summary.json").read_text()) == report
    rows = pq.read_table(tmp_path / "o" / "results.parquet").to_pylist()
    assert [row["question"] for row in rows] == ["<b>one"] * 4 + ["two"] * 4
    assert [row["answer"] for row in rows] == ["1"] * 4 + [None] * 4
    assert [row["right"] is None for row in rows] == [False] * 4 + [True] * 4
    assert (tmp_path / "o" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "o" / "pareto.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", page)
    assert run(command) == 0
    out = capsys.readouterr()
    assert "recommended: none" in out.out
    assert "threshold:0.1 none dual" in out.out
    command[command.index("5%")] = "lots"
    assert run(command) == 2
    assert "--bound is 'lots'" in capsys.readouterr().err


def test_what_is_missing_is_said_before_anything_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "--prompts", "pebble", "--grid", "unmask=fixed", "-o", str(tmp_path / "o")]
    remedy = f"run: pip install {' '.join(map(repr, requirements('sweep')))}"
    for module in ("altair", "vl_convert", "pyarrow.parquet"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            assert run(command) == 2
        assert remedy in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--limit", "0"], "--limit is 0"),
        (["--bound", "0"], "must be above 0"),
        (["--judge", "exat"], "did you mean 'exact'"),
        (["--executor", "local:x"], "like local:2"),
        (["--baseline", "unmask"], "no setting"),
        (["--grid", "skip_layer_k=99"], "beyond the 32 layers"),
        (["--prompts", "/nowhere.jsonl"], "cannot be read"),
        (["--gen-length", "4000"], "shorten one"),
    ],
)
def test_bad_input_is_one_line(
    change: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "--prompts", "pebble", "--grid", "unmask=threshold"]
    assert run([*command, "-o", str(tmp_path / "o"), *change]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "o").exists()


def test_a_repeated_prompt_is_refused(
    tiny: Model, settings: Sequence[Setting], tmp_path: Path
) -> None:
    twice = [Question("a", line=1), Question("b", line=2), Question("a", line=4)]
    with pytest.raises(PromptError, match=r"prompt 3 \(line 4\) is the same as prompt 1"):
        run_sweep(tiny, twice, settings, tmp_path / "o", baseline=EXACT)
    # A sweep of the first two would be lost when more are asked for, and the third is removed.
    with pytest.raises(PromptError, match=r"the same as prompt 1 \(line 1\)"):
        run_sweep(tiny, twice, settings, tmp_path / "o", baseline=EXACT, limit=2)


def test_a_sweep_of_a_model_that_draws_by_itself_compares_what_is_stated(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "dream", architecture="DreamModel")
    dream = load(directory, device="cpu")
    asked = Settings(gen_length=16)
    grid = parse_grid("cache=none,prefix", asked, exact(asked))
    sweep = run_sweep(
        dream, QUESTIONS[:2], grid.settings, tmp_path / "sweep", baseline=exact(asked)
    )
    runs = [sweep.baseline, *(setting.settings for setting in sweep.settings)]
    assert [(run.temperature, run.top_p) for run in runs] == [(0.0, None)] * 3
    entropy = "fixed:order=entropy,schedule=time,eps=0.001,first_alone=False"
    assert [run.as_text()["unmask"] for run in runs[1:]] == [entropy] * 2
    # What is recommended as a run spec decodes so without the model's word.
    assert "order=entropy,schedule=time" in sweep.settings[0].spec
    assert sweep.baseline.unmask == Fixed()
