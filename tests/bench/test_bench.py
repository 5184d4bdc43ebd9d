"""The bench: its gate holds speeds back, its cells do what they say, its files are strict JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from docs import benchmarks
from skipstone import CosineSkip, Engine, Fixed, Settings
from skipstone.bench import cells, gate, stamped
from skipstone.bench.gate import Check
from skipstone.bench.plan import StepShape, parse_generation
from skipstone.bench.random_model import random_model as of_shape
from skipstone.bench.spaced import SpacedSkip
from skipstone.bench.timing import Clock, Job, Rig, in_turn, store_bytes
from skipstone.cli.main import run
from skipstone.engine.ages import Ages
from skipstone.engine.forward.runner import Pass, Runner
from skipstone.engine.prompts import Prompt
from skipstone.engine.roofline import Card, Work, bound
from skipstone.errors import ConfigError, NoRoomError
from skipstone.models.load import Model
from skipstone.models.shapes import LLADA_8B
from skipstone.ops import backend
from skipstone.skip import NoSkip
from skipstone.testing.tiny import tiny_model
from tests.engine.test_graph import stale_positions

CARD = Card("slow", 1e9, 1e9, "measured")
PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6]]
TOYS = ["--batch", "1,2", "--context", "24", "--rows", "8", "--refresh", "64", "--repeats", "2"]
TOYS += ["--generation", "9+16/8@8,5+8/2x2@8", "--skip-layer-k", "2,18", "--going", "0.25,0.5"]


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig(tiny_model(), CARD, repeats=2)


@pytest.fixture
def open_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate that lets everything pass, for tests of what lies behind it."""

    def passes(model: Model, prompts: Sequence[Prompt], measured: torch.dtype) -> list[Check]:
        return [Check("nothing", True, "not checked")]

    monkeypatch.setattr("skipstone.bench.gate.gate", passes)


def test_the_gate_passes_what_is_right() -> None:
    checks = gate.gate(tiny_model(), PROMPTS, torch.float32)
    assert [check.passed for check in checks] == [True] * 3
    assert "kernels need a CUDA device" in checks[2].detail


def test_a_broken_graph_closes_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    stale_positions(monkeypatch)
    checks = gate.gate(tiny_model(), PROMPTS, torch.float32)
    assert [check.passed for check in checks] == [False, True, True]


def test_a_closed_gate_exits_1_and_tells_no_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stale_positions(monkeypatch)
    assert run(["bench", *TOYS, "-o", str(tmp_path / "out.json")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gate failed: graphs give the tokens of the eager path: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("factor", "passed"), [(1 + 2e-7, True), (1.001, False), (-1.0, False)])
def test_a_kernel_may_round_but_not_err(*, factor: float, passed: bool) -> None:
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))

    def work() -> list[torch.Tensor]:
        return [x if "switched off" in backend.refusal(x) else x * factor]

    assert gate._near("toy", work, torch.finfo(torch.float32).eps).passed == passed


@pytest.mark.parametrize("going", [0.25, 0.5, 0.75, 1.0])
def test_a_forced_share_really_drops_that_share(going: float) -> None:
    skip = SpacedSkip(CosineSkip(skip_layer_k=3), going)
    settings = Settings(unmask=Fixed(), skip=skip, gen_length=16, steps=16, eos_stop=False)
    engine = Engine(tiny_model(), settings.replace(block_length=16, budget="stop"))
    for result in engine.generate_batch(PROMPTS):
        assert result.stats.num_forwards == 16
        assert result.stats.skip_share == 1.0 - going


def test_other_rows_go_on_in_the_next_step_and_the_similarity_is_computed() -> None:
    skip = SpacedSkip(CosineSkip(skip_layer_k=3), 0.25)
    settings = Settings(unmask=Fixed(), skip=skip, gen_length=16, steps=8, eos_stop=False)
    run = Engine(tiny_model(), settings.replace(block_length=16)).start(PROMPTS)
    run.batch.ages = Ages.start(run.batch.canvas)
    with torch.inference_mode():
        run.decode()
    assert run.batch.runner.skip is not None
    assert run.batch.runner.skip.scores is not None
    assert run.batch.runner.skip.scores.rows.num_rows == 32
    # Each row of the block went all the way after the refresh, in one of four steps.
    assert (run.batch.ages.finished_at_BL[0, 5:21] > 0).all()


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="must be a share above 0 and at most 1"):
        SpacedSkip(CosineSkip(), share)


def test_sides_are_sampled_in_turn_and_everything_twice() -> None:
    calls = list[str]()

    def side(name: str, seconds: float) -> list[float]:
        calls.append(name)
        return [seconds]

    a, b = in_turn([lambda: side("a", 1.0 if len(calls) < 10 else 3.0), lambda: side("b", 2.0)], 3)
    assert "".join(calls) == "aabb" + "ababab" * 2
    assert (a.ms, a.low_ms, a.high_ms, a.again_ms) == (1e3, 1e3, 1e3, 3e3)
    assert b.ms == b.again_ms == 2e3


def test_a_step_is_from_one_choice_to_the_next(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that goes on by 7 ms in every forward, a step takes 7 ms."""
    now, forward = [0.0], Runner.forward

    def slow(self: Runner, *arguments: object, **options: object) -> Pass:
        now[0] += 7e-3
        return forward(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Runner, "forward", slow)
    monkeypatch.setattr(stamped.time, "perf_counter", lambda: now[0])
    found = cells.step(rig, StepShape(2, 24, 8))
    assert found.step_ms == found.high_ms == pytest.approx(7.0)
    work = Work(2, 8, 24, scored=0.5)
    floor = bound(CARD, rig.model.config, work, weight_bytes=8).seconds * 1e3
    assert found.times_floor == pytest.approx(7.0 / floor)


def test_a_store_of_what_a_job_needs_holds_all_its_requests_at_once(rig: Rig) -> None:
    job = cells.step_job(rig.model.config, StepShape(3, 40, 8), NoSkip())
    clock = Clock(rig.model, f"{store_bytes(rig.model, job)}B")
    assert [len(result.stats.steps) for result in clock.run(job)] == [4] * 3
    less = Clock(rig.model, f"{store_bytes(rig.model, replace(job, prompts=job.prompts[:1])) - 1}B")
    with pytest.raises(NoRoomError):
        less.run(job)


def test_every_cached_step_is_a_sample(rig: Rig) -> None:
    job = cells.step_job(rig.model.config, StepShape(2, 24, 8), NoSkip())
    assert len(Clock(rig.model).steps(job)) == 3
    assert [cells._turns(replace(rig, repeats=n), job) for n in (2, 3, 4, 20)] == [1, 1, 2, 7]


def test_a_refresh_is_what_more_refreshes_take_more(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that tells 7 ms a refresh and 100 ms for the rest, a refresh takes 7 ms."""

    def told(self: Clock, job: Job) -> float:
        return 0.1 + 7e-3 * len(self.run(job)[0].stats.steps)

    monkeypatch.setattr(Clock, "seconds", told)
    assert cells.refresh(rig, 64).refresh_ms == pytest.approx(7.0)


def test_rates_at_the_floor_are_those_of_the_card(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes as long as its arithmetic on the card reaches all of the card's arithmetic."""
    slow = replace(rig, card=Card("slow", 1e30, 1e9, "measured"))
    work = Work(1, 8, 64, scored=8 / 64)
    least = bound(slow.card, rig.model.config, replace(work, block_length=64)).seconds

    def told(self: Clock, job: Job) -> float:
        assert job.settings.steps is not None
        return least * job.settings.steps

    monkeypatch.setattr(Clock, "seconds", told)
    found = cells.refresh(slow, 64)
    assert found.share_of_matrix_rate == pytest.approx(1.0)
    assert found.teraflops == pytest.approx(1e-3)


def test_a_skip_at_the_ideal_reaches_all_of_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def ideal(self: Clock, job: Job) -> list[float]:
        settings = job.settings
        forced = isinstance(settings.skip, SpacedSkip)
        work = Work(1, 8, 24, 3 if forced else 0, 0.25 if forced else 1.0, scored=0.5)
        return [bound(CARD, rig.model.config, work, weight_bytes=8).seconds] * 3

    monkeypatch.setattr(Clock, "steps", ideal)
    (found,) = cells.skips(rig, StepShape(1, 24, 8), (3,), (0.25,))
    assert found.going == 0.25
    assert found.times_faster == pytest.approx(found.ideal_times)
    assert found.share_of_ideal == pytest.approx(1.0)


def test_a_generation_may_skip(rig: Rig) -> None:
    wanted = parse_generation("9+16/8x2@8~3:0.25")
    found = cells.generation(rig, wanted)
    assert found.generation == "9+16/8x2@8~3:0.25"
    (result, _) = Clock(rig.model).run(cells.job_of(rig.model.config, wanted))
    assert result.stats.skip_share == 0.75
    plain = replace(wanted, skip_layer_k=0, going=1.0)
    assert cells.generation_floor_ms(rig, wanted) < cells.generation_floor_ms(rig, plain)


def test_only_masks_need_logits() -> None:
    head = 2 * LLADA_8B.vocab_size * LLADA_8B.width * 1024
    solver = Card("solver", 1e30, 1.0, "measured")
    all_rows, half = (bound(solver, LLADA_8B, Work(32, 32, 512, scored=s)) for s in (1.0, 0.5))
    assert all_rows.seconds - half.seconds == pytest.approx(head / 2)


@pytest.mark.parametrize(
    "text",
    ["19+128/32", "1024+256/64", "1000+256/256x8@64", "5+8/2x2@8", "5+32/8x2~18:0.25"],
)
def test_a_generation_reads_as_it_is_written(text: str) -> None:
    assert str(parse_generation(text)) == text


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--generation", "19-128"], ["'19-128'", "PROMPT+NEW/FORWARDS", "1000+256/256x8@64"]),
        (["--generation", "19+100/20"], ["100 new tokens", "blocks of 32", "divides NEW"]),
        (["--generation", "19+128/30"], ["30 forwards", "4 blocks", "a multiple of 4 up to 128"]),
        (["--generation", "9+32/8~40:0.5"], ["skip before layer 40", "between 2 and 32"]),
        (["--generation", "9000+128/32"], ["9128 positions", "the model's 512", "shorter"]),
        (["--only", "steps"], ["'steps'", "did you mean 'step'?"]),
        (["--only", "peer"], ["there is none", "--peer NAME=PATH"]),
        (["--going", "2"], ["'2'", "share above 0 and at most 1", "like 0.25"]),
        (["--rows", "12"], ["--rows has 12", "a multiple of 8"]),
        (["--context", "32"], ["--context has 32", "more than --rows (32)"]),
        (["--skip-layer-k", "40"], ["--skip-layer-k has 40", "between 2 and 32"]),
        (["--batch", "1;8"], ["'1;8'", "separated by commas"]),
        (["--repeats", "1"], ["--repeats is 1", "at least 2"]),
        (["--dtype", "bfloat15"], ["'bfloat15'", "did you mean 'bfloat16'?"]),
        (["--peer", "dllm=."], ["'dllm'", "did you mean 'fast-dllm'?"]),
        (["--peer", "fast-dllm=."], ["no checkout of Fast-dLLM", "generate.py", "clone https"]),
    ],
)
def test_a_mistake_gets_one_line(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "--device", "cpu", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    for part in parts:
        assert part in err


@pytest.mark.usefixtures("open_gate")
def test_every_part_runs_and_its_file_becomes_a_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "2026-01-02-bench.json"
    code = run(["bench", "--device", "cpu", *TOYS, "--json", "-o", str(path)])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    value = json.loads(out, parse_constant=refuse)
    assert json.loads(path.read_text(), parse_constant=refuse) == value
    assert value["finished"] is True
    assert value["model"] == "pebble"
    assert value["command"].startswith("skipstone bench --device cpu --batch 1,2")
    assert {name: len(value[name]) for name in ("steps", "skips", "refreshes", "generations")} == {
        "steps": 2,
        "skips": 8,
        "refreshes": 1,
        "generations": 2,
    }
    assert [c["going"] for c in value["skips"][:4]] == [0.25, 0.5, 0.25, 0.5]
    page = benchmarks.section(path)
    assert "## bench, 2026-01-02" in page
    for name in ("gate", "steps", "skips", "refreshes", "generations"):
        assert f"**{name}**" in page


@pytest.mark.usefixtures("open_gate")
def test_a_killed_bench_leaves_what_it_had_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, step = tmp_path / "out.json", cells.step

    def second_time(rig: Rig, shape: StepShape) -> cells.StepCell:
        if shape.batch == 2:
            raise KeyboardInterrupt
        return step(rig, shape)

    monkeypatch.setattr(cells, "step", second_time)
    assert run(["bench", "--device", "cpu", "--only", "step", *TOYS[:6], "-o", str(path)]) == 130
    assert "interrupted" in capsys.readouterr().err
    value = json.loads(path.read_text())
    assert value["finished"] is False
    assert [cell["batch"] for cell in value["steps"]] == [1]


@pytest.mark.usefixtures("open_gate")
def test_a_cell_that_does_not_fit_is_named_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = cells.step

    def too_large(rig: Rig, shape: StepShape) -> cells.StepCell:
        if shape.batch == 1:
            raise torch.OutOfMemoryError
        return step(rig, shape)

    monkeypatch.setattr(cells, "step", too_large)
    arguments = ["--only", "step", *TOYS[:6], "--repeats", "2"]
    assert run(["bench", "--device", "cpu", *arguments]) == 0
    out = capsys.readouterr().out
    assert "step batch 1, context 24, 8 rows" in out
    assert "not enough memory on the device" in out
    assert "Cached steps" in out


def test_a_page_that_cannot_be_written_says_so_before_the_work(
    open_gate: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gone = tmp_path / "gone" / "out.json"
    assert run(["bench", "--device", "cpu", "-o", str(gone)]) == 2
    assert "give another path" in capsys.readouterr().err


@pytest.fixture(scope="module")
def toy() -> Model:
    config = replace(LLADA_8B, width=32, num_layers=3, num_heads=2, num_kv_heads=2, mlp_width=48)
    config = replace(config, vocab_size=128, mask_id=126, eos_id=127, max_length=128)
    return of_shape("toy", config, torch.device("cpu"), torch.float32)


def test_a_random_model_never_prefers_the_mask(toy: Model) -> None:
    head = toy.network.published()["model.transformer.ff_out.weight"]
    assert not head[126].any()
    assert head[125].any()


def test_every_figure_of_a_cell_is_flat() -> None:
    for kind in (cells.StepCell, cells.SkipCell, cells.GenerationCell, cells.RefreshCell):
        assert {field.type for field in fields(kind)} <= {"int", "float", "str", "float | None"}
