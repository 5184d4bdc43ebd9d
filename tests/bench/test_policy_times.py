"""Times along a recording: what was committed and computed is what was recorded, elsewhere too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.policy_times import main
from benchmarks.replayed.policies import scripted
from benchmarks.replayed.record import listened
from benchmarks.replayed.schedule import BlockAnswers, Recording, RowShares, Schedule
from benchmarks.replayed.scripts import Notes, Prompter
from skipstone import CosineSkip, Engine, Settings, policies
from skipstone.blocks import Block
from skipstone.engine.observe import StepView, Taps
from skipstone.engine.result import Result
from skipstone.models.load import Model
from skipstone.request_step import RequestStep
from skipstone.testing.tiny import tiny_model

BASE = Settings(gen_length=24, block_length=8, eos_stop=False, unmask="fixed", cache="none")
KINDS = {
    "threshold": BASE.replace(unmask="threshold:0.3"),
    "dual": BASE.replace(unmask="threshold:0.3", cache="dual"),
    "credit": BASE.replace(unmask="credit:0.4"),
    "klass": BASE.replace(unmask="klass:value=0.2,drift=2"),
    "wino": BASE.replace(unmask="wino:value=0.2,back=0.4"),
    "editing": BASE.replace(unmask="editing:threshold=0.7,edit=0.5,post_steps=0", cache="dual"),
    "elastic": BASE.replace(cache="elastic:0.95"),
    "d2cache": BASE.replace(cache="d2cache:current_k=4,rollout_p=0.05"),
    "dllm": BASE.replace(cache="dllm:prompt_every=9,response_every=3,ratio=0.4"),
    "dyllm": BASE.replace(cache="dyllm:threshold=0.9,warmup=1"),
    "cosine": BASE.replace(skip="cosine:skip_layer_k=3,skip_threshold=0.9", cache="dual"),
    "cosine alone": BASE.replace(skip="cosine:skip_layer_k=3,skip_threshold=0.9"),
    "ratio": BASE.replace(skip="ratio:keep=0.5@0.25", cache="dual"),
}
HERE, THERE = [5, 9, 2, 33, 8], [7, 1, 50, 3, 3, 8, 20, 21, 4]


class Watcher:
    """Keeps what each step wrote, and the rows of its block that went all the way."""

    taps = Taps()

    def __init__(self) -> None:
        self.wrote = list[tuple[int, int, list[int]]]()
        self.finished = list[list[int]]()
        self.entered = list[int]()

    def on_start(
        self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]
    ) -> None: ...

    def on_step(self, view: StepView) -> None:
        at = view.context.only
        self.wrote.append((at.block.index, at.step, view.commit_BG[0].nonzero()[:, 0].tolist()))
        rows = view.finished
        there = np.zeros(0, np.int64) if rows is None else rows.position - at.start
        self.finished.append(there[(there >= 0) & (there < at.block.length)].tolist())
        self.entered.append(view.rows.num_rows)

    def on_end(self, results: Sequence[Result]) -> None: ...


def noted(settings: Settings) -> tuple[tuple[BlockAnswers, ...], Watcher]:
    """What policies answered, and what came of it."""
    notes, watcher = Notes(), Watcher()
    Engine(tiny_model(0), scripted(settings, notes)).generate(HERE, observer=watcher)
    blocks = notes.take()
    return tuple(blocks[index] for index in sorted(blocks)), watcher


@pytest.mark.parametrize("name", KINDS)
def test_another_model_commits_as_recorded(name: str) -> None:
    settings = KINDS[name]
    answer, before = noted(settings)
    other, free, led = tiny_model(5, num_layers=8), Watcher(), Watcher()
    if isinstance(settings.skip, CosineSkip):
        settings = settings.replace(skip="cosine:skip_layer_k=5,skip_threshold=0.9")
    device = other.network.device
    script = Prompter([answer], block_length=8, depths=(4, 8), device=device)
    Engine(other, settings).generate(THERE, observer=free)
    Engine(other, scripted(settings, script)).generate(THERE, observer=led)

    assert led.wrote == before.wrote
    assert free.wrote != before.wrote
    if name.startswith("cosine"):
        # Also rows whose old score was committed: here it would not be the best of all.
        assert all(set(b) <= set(a) for a, b in zip(led.finished, before.finished, strict=True))
        assert sum(map(len, led.finished)) <= 1.2 * sum(map(len, before.finished))
        assert led.finished != free.finished


def test_requests_of_a_batch_follow_their_own_answers() -> None:
    answers = [noted(KINDS[name])[0] for name in ("threshold", "dual")]
    answers[1] = tuple(reversed(answers[1]))
    other = tiny_model(5)
    script = Prompter(answers, block_length=8, depths=(4, 4), device=other.network.device)
    results = Engine(other, scripted(KINDS["dual"], script)).generate_batch([HERE, THERE])

    for result, answer in zip(results, answers, strict=True):
        steps = [len(step.commits) for block in answer for step in block]
        assert [step.committed for step in result.stats.steps] == steps


def test_shares_fit_other_lengths() -> None:
    here = RequestStep(0, 0, 4, Block(1, 8, 16), 0, 8, 0)
    there = RequestStep(0, 0, 20, Block(2, 16, 24), 0, 8, 0)
    meant = np.isin(np.arange(28), [1, 3, 4, 5, 6, 7, 12, 17, 20, 21])
    shares = RowShares.of(np.arange(28), meant, here)
    found = np.flatnonzero(RowShares.from_json(shares.as_json()).among(np.arange(60), there))

    # Half of 20, half of 16, the same two of the block, and a quarter of 16.
    regions = np.searchsorted([20, 36, 44], found, side="right")
    assert np.bincount(regions).tolist() == [10, 8, 2, 4]
    assert found[regions == 2].tolist() == [36, 41]


def test_only_blocks_that_hold_text_are_kept() -> None:
    model, prompts = tiny_model(3, eos_scale=2.3), [[i, 5, 9, 2] for i in range(1, 9)]
    settings = BASE.replace(unmask="threshold:0.3", eos_stop=True)
    lengths = [Engine(model, settings).generate(prompt).length for prompt in prompts]
    found = listened(model, settings, prompts)

    # A quarter of a block is enough, an eighth is not.
    assert lengths == [2, 2, 24, 2, 1, 24, 1, 2]
    assert len(found.first) == sum(length >= 2 for length in lengths)
    assert len(found.later) == sum((length >= 10) + (length >= 18) for length in lengths)
    for block in (*found.first, *found.later):
        assert sorted(offset for step in block for offset in step.commits) == list(range(8))


def test_a_file_is_timed_and_what_fails_is_told(tmp_path: Path) -> None:
    kinds = {name: KINDS[name] for name in ("threshold", "cosine", "dllm")}
    kinds["cache=dual"] = BASE.replace(cache="dual")
    kinds["deep"] = BASE.replace(skip="cosine:skip_layer_k=3")
    schedules = dict[str, Schedule]()
    for name, settings in kinds.items():
        answer, _ = noted(settings)
        texts = settings.as_text()
        if name == "deep":
            texts["skip"] = "cosine:skip_layer_k=18"
        schedules[name] = Schedule(texts, answer[:1], answer[1:])
    path, out = tmp_path / "schedules.json", tmp_path / "out.json"
    path.write_text(Recording({"model": "tiny"}, 4, 8, schedules).as_text())
    assert Recording.read(path).schedules == schedules

    arguments = ["time", str(path), "--shape", "tiny", "--device", "cpu", "--batch", "2"]
    arguments += ["--prompt", "9", "--gen-length", "32", "--calls", "2", "-o", str(out)]
    said = CliRunner().invoke(main, arguments, catch_exceptions=False).output
    found = json.loads(out.read_text())["settings"]

    assert "skip_layer_k is 18" in found["deep"]["failed"]
    assert "deep" in said
    for name in ("threshold", "cosine", "dllm"):
        one = found[name]
        assert one["calls"] == 2
        assert one["strayed_steps"] == 0
        assert one["low"] <= one["seconds_per_answer"] <= one["high"]
        blocks = schedules[name].answer(0, 4)
        assert one["steps"] >= min(map(len, blocks)) * 4


def test_every_choice_is_held_against_the_threshold(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["decide", "--shape", "tiny", "--device", "cpu", "--batch", "2", "--repeats", "2"]
    said = CliRunner().invoke(main, [*arguments, "-o", str(out)], catch_exceptions=False).output
    found = {one["policy"]: one for one in json.loads(out.read_text())["choices"]}

    assert set(found) == set(policies.UNMASK.known()), said
    assert found["threshold"]["beyond_ms"] == 0
    other = found["credit"]
    assert other["beyond_ms"] == other["ms"] - found["threshold"]["ms"]
