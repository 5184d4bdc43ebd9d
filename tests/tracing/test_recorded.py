"""Whatever stands for a run can be compared and diagnosed: recorders, traces, records, paths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import skipstone as st
from skipstone.errors import ConfigError, TraceError
from skipstone.record.recorded import Given
from skipstone.testing.tiny import tiny_model
from specimens import decode, llada_style

MODEL = tiny_model()
PROMPT = [3, 1, 4, 1, 5, 9, 2]
SHAPE = st.Settings(gen_length=16, block_length=8, eos_stop=False, cache=st.DualCache())


def ours(sink: st.TraceWriter | None = None, settings: st.Settings = SHAPE) -> st.Recorder:
    recorder = st.Recorder("full", sink=sink)
    st.Engine(MODEL, settings).generate(PROMPT, observer=recorder)
    return recorder


def theirs(path: Path | None = None) -> Given:
    net = llada_style.from_model(MODEL, aligned=True)
    with st.attach(net, path=path) as recorder:
        decode.dual_cache(net, torch.tensor([PROMPT]), threshold=0.02)
    return recorder


def on_disk(folder: Path) -> st.Recorder:
    return ours(sink=st.TraceWriter(folder / "a.trace"))


WAYS: list[Callable[[Path], Given]] = [
    lambda folder: ours(),
    lambda folder: ours().trace,
    lambda folder: ours().records[0],
    on_disk,
    lambda folder: on_disk(folder).path or "",
    lambda folder: str(on_disk(folder).path),
    lambda folder: st.open_trace(on_disk(folder).path or ""),
]


@pytest.mark.parametrize("way", WAYS)
def test_whatever_stands_for_our_run_is_taken(way: Callable[[Path], Given], tmp_path: Path) -> None:
    other = ours(settings=SHAPE.replace(unmask=st.Threshold(0.02)))
    run = way(tmp_path)
    expected = st.compare(ours().records[0], other.records[0])
    assert expected.first is not None
    assert st.compare(run, other).first == expected.first
    assert st.diagnose(run, other, time_limit=1).parted


@pytest.mark.parametrize("stored", [False, True])
def test_an_attached_recorder_is_taken_wherever_its_trace_lies(
    stored: bool, tmp_path: Path
) -> None:
    run = theirs(tmp_path / "their.trace" if stored else None)
    found = st.compare(ours(), run)
    assert found.first is not None
    assert found.b.header.source == "dual_cache"
    assert st.diagnose(ours(), run, time_limit=1).parted


@pytest.mark.parametrize("ask", [st.compare, st.diagnose])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (3, "b is 3 .int., which is no recorded run; give a recorder"),
        (None, "b is None"),
        (SHAPE, "which is no recorded run"),
        (st.Recorder(), "b has recorded nothing yet"),
    ],
)
def test_what_is_no_run_is_refused(ask: Callable[..., object], wrong: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ask(ours(), wrong)


def test_several_runs_are_none_and_a_missing_path_is_named(tmp_path: Path) -> None:
    run = ours()
    with pytest.raises(ConfigError, match="a is a list of 2 runs; give one of them"):
        st.compare([run, run], run)  # pyrefly: ignore[bad-argument-type]
    with pytest.raises(TraceError, match=r"none\.trace"):
        st.diagnose(run, tmp_path / "none.trace")
    with pytest.raises(ConfigError, match="sample is 3, a has 1 samples"):
        st.compare(run, run, sample=3)
