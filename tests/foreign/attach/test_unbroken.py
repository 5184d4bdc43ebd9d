"""A run goes on whatever goes wrong in us, and what could not be recorded is said."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from skipstone.errors import ConfigError, ForeignCodeWarning
from skipstone.foreign.attach.attach import attach
from skipstone.foreign.attach.forward import Forward
from skipstone.foreign.attach.watch import Watch
from skipstone.foreign.positions.follow import Follower
from skipstone.foreign.rows.finder import Finder
from skipstone.foreign.sanitizer.sanitize import sanitize
from skipstone.foreign.sanitizer.sanitizer import Sanitizer
from skipstone.record import RunRecord, Tap
from skipstone.record.reader import open_trace
from tests.foreign.shapes import batches, canvases, rows
from tests.foreign.shapes.common import BEGIN, Shape, canvas_of, plain
from tests.foreign.shapes.network import EOS, MASK, Network, Plain

PARTS: list[tuple[type, str]] = [
    (Finder, "heard"),
    (Finder, "find"),
    (Finder, "found"),
    (Finder, "newest"),
    (Follower, "heard"),
    (Watch, "heard"),
    (Forward, "enter"),
    (Forward, "leave"),
    (Forward, "end"),
    (Sanitizer, "before"),
    (Sanitizer, "after"),
]


def kinds(record: RunRecord) -> list[str]:
    return [event.kind for event in record.events]


@pytest.mark.parametrize("make", [rows.position_ids, batches.guided_in_one_batch])
@pytest.mark.parametrize(("part", "name"), PARTS, ids=lambda p: getattr(p, "__name__", p))
def test_what_breaks_in_a_hook_is_said_and_the_run_goes_on(
    part: type, name: str, make: Callable[[], Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part fails at its third call, and from there on."""
    alone, shape, calls = make().loop(), make(), 0
    right = getattr(part, name)

    def breaks(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise RuntimeError("of the test")
        return right(*args, **kwargs)

    monkeypatch.setattr(part, name, breaks)
    said = pytest.warns(ForeignCodeWarning, match="of the test")
    with said, attach(shape.model, mask_id=MASK, level="full", sanitize=True) as recorder:
        out = shape.loop()
    assert torch.equal(out, alone)
    assert calls > 2
    assert "recording_failed" in kinds(recorder.records[0])
    assert recorder.records[0].steps
    assert "forward" not in vars(shape.model)


def test_what_fails_is_said_once_and_names_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: object) -> None:
        raise RuntimeError("of the test")

    monkeypatch.setattr(Forward, "end", breaks)
    shape = rows.view()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with attach(shape.model, mask_id=MASK) as recorder:
            shape.loop()
    ours = [w for w in caught if w.category is ForeignCodeWarning]
    places = [e for e in recorder.records[0].events if e.kind == "recording_failed"]
    assert 1 <= len(ours) == len(places) <= 2  # the loop has two lines that call
    assert all("shapes/" in event.source for event in places)


def test_warnings_that_are_errors_do_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: object) -> None:
        raise RuntimeError("of the test")

    monkeypatch.setattr(Forward, "end", breaks)
    shape = rows.view()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with attach(shape.model, mask_id=MASK) as recorder:
            shape.loop()
    assert "recording_failed" in kinds(recorder.records[0])


def test_a_sanitizer_that_breaks_is_said_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: object) -> None:
        raise RuntimeError("of the test")

    for part, name in ((Sanitizer, "after"), (Follower, "heard")):
        with monkeypatch.context() as patch:
            patch.setattr(part, name, breaks)
            shape = rows.view()
            with pytest.warns(ForeignCodeWarning, match="of the test"), sanitize(shape.model):
                shape.loop()


def test_an_error_of_the_model_is_the_users_own_and_the_next_call_is_recorded() -> None:
    net = Plain()
    with attach(net, mask_id=MASK) as recorder:
        with pytest.raises(IndexError):
            net(torch.tensor([[99]]))
        plain(net, canvas_of())
    assert recorder.records[0].outcome is not None


class Lost(Network):
    """Rows at places that nothing tells."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: Tensor | None = None

    def forward(self, ids: Tensor, store: list[Tensor] | None = None) -> Tensor:
        return self.run(ids, self.rows)


def lose(net: Lost) -> Tensor:
    """Two steps, the second of which computes rows that are masks like all others."""
    x = canvas_of()
    with torch.no_grad():
        net(x, store=[torch.zeros(2)])
        x[0, BEGIN] = 5
        net.rows = torch.arange(12, 15)
        logits = net(torch.full((1, 3), MASK), store=[torch.zeros(2)])
        x[0, 12:15] = logits[0, :, :MASK].argmax(-1)
    return x


def test_rows_that_cannot_be_located_are_said_and_the_step_is_kept_as_far_as_known() -> None:
    net = Lost()
    said = pytest.warns(ForeignCodeWarning, match="does not say which positions they are")
    with said, attach(net, mask_id=MASK, level="full") as recorder:
        out = lose(net)
    (record,) = recorder.records
    assert kinds(record).count("rows_not_located") == 1
    first, second = record.steps
    assert (first.rows.size, second.rows.size) == (out.shape[1], 0)
    assert second.positions_from == "unknown"
    assert second.ids_after.tolist() == out[0, BEGIN:].tolist()
    assert first.committed == (BEGIN,)
    assert record.outcome is not None


def test_a_call_of_some_prompts_of_a_batch_is_said_and_the_run_goes_on() -> None:
    net, x = Plain(), canvas_of(batches.TWO, 2)
    said = pytest.warns(ForeignCodeWarning, match="1 of the 2 prompts of the batch")
    with said, torch.no_grad(), attach(net, mask_id=MASK) as recorder:
        net(x)
        x[0, BEGIN:] = 5
        net(x[1:])
        x[1, BEGIN:] = 7
    assert len(recorder.traces) == 1
    assert [r.tokens for r in recorder.records] == [(5, 5), (7, 7)]
    assert recorder.records[1].steps[1].positions_from == "unknown"


def test_a_first_call_that_is_no_canvas_is_said() -> None:
    shape = rows.cache_position()
    said = pytest.warns(ForeignCodeWarning, match="attach before the first call")
    with said, torch.no_grad(), attach(shape.model, mask_id=MASK) as recorder:
        shape.model(torch.full((1, 4), MASK), {}, cache_position=torch.arange(6, 10))
    assert "rows_not_located" in kinds(recorder.records[0])
    assert recorder.records[0].steps[0].rows.tolist() == [6, 7, 8, 9]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "was never called"),
        ({"x": torch.zeros(1, 3, 16)}, "embeddings of ids that are not known"),
        ({"text": "of no use"}, "without token ids"),
    ],
    ids=["not called", "embeddings", "no ids"],
)
@pytest.mark.filterwarnings("ignore::skipstone.errors.ForeignCodeWarning")
def test_nothing_recorded_is_an_error(given: dict[str, object], why: str) -> None:
    class Anything(Network):
        def forward(self, x: Tensor | None = None, text: str = "") -> object:
            return None

    net = Anything()
    with pytest.raises(ConfigError, match=why), attach(net, mask_id=MASK):
        _ = given and net(**given)
    # An exception of the user's own is not covered by ours.
    with pytest.raises(KeyError), attach(net, mask_id=MASK):
        raise KeyError("of the user")


def test_a_body_without_logits_is_said() -> None:
    net = Plain()

    def head_outside(ids: Tensor) -> Tensor:
        return net.head(net.model(ids))

    said = pytest.warns(ForeignCodeWarning, match="no logits over the vocabulary")
    with said, attach(net.model, mask_id=MASK) as recorder:
        out = plain(head_outside, canvas_of())
    (record,) = recorder.records
    assert kinds(record).count("not_recorded") == 1
    assert record.tokens == tuple(out[0, BEGIN:].tolist())


def test_a_trace_on_disk_grows_with_its_canvas(tmp_path: Path) -> None:
    for number, make in enumerate((canvases.grown, canvases.grown_in_the_cache)):
        shape, path = make(), tmp_path / f"{number}.trace"
        with attach(
            shape.model,
            mask_id=MASK,
            eos_id=EOS,
            level="full",
            path=path,
            stated={"block_length": 4},
        ):
            out = shape.loop()
        trace = open_trace(path)
        (record,) = trace.records
        assert record.header.gen_length == out.shape[1] - BEGIN
        assert record.tokens == tuple(out[0, BEGIN:].tolist())
        assert [s.rows.tolist() for s in record.steps] == [c[0].tolist() for c in shape.body.calls]
        assert all(s.ids_before.size == record.header.gen_length for s in record.steps)
        assert record.steps[0].ids_before[-1] == MASK
        key = next(key for key in trace.keys(0) if key.tap == Tap.STATE)
        found = trace.tensor(0, key)
        assert found is not None
        assert found.positions.tolist() == record.steps[0].rows.tolist()
