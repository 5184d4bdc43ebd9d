"""A recorded canvas is run again as a canvas, not as the prompt left of its first mask."""

from __future__ import annotations

import pytest

from skipstone import Engine, diagnose, load
from skipstone.diff import compare
from skipstone.engine import parse_settings
from skipstone.errors import ConfigError
from skipstone.models.load import Model
from skipstone.tracing import Recorder
from skipstone.tracing.replay.again import canvas_of, decode_again


@pytest.fixture(scope="module")
def model() -> Model:
    return load("pebble")


@pytest.fixture(scope="module")
def canvas(model: Model) -> list[int]:
    """A question, masks, and how the answer ends."""
    asked, end = model.text.encode("Who is Newton, physics?"), " gravity."
    return [*asked, *[model.config.mask_id] * 24, *model.text.encode_rendered(end)]


def recorded(model: Model, canvas: list[int], skip: str = "none") -> tuple[Recorder, Engine]:
    recorder = Recorder()
    engine = Engine(model, cache="none", skip=skip)
    engine.submit_canvas(canvas, observer=recorder).result(60)
    own = parse_settings(recorder.records[0].header.settings).all_stated()
    return recorder, Engine(model, own)


def test_two_canvases_that_part_are_diagnosed(model: Model, canvas: list[int]) -> None:
    a, engine_a = recorded(model, canvas)
    b, engine_b = recorded(model, canvas, skip="cosine:skip_layer_k=2,skip_threshold=0.5")
    found = diagnose(a, b, engine_a=engine_a, engine_b=engine_b)
    assert found.verdict == "stale-skipped-state"
    assert found.cause is not None
    assert str(found.cause.what).startswith("the old state of a row that skip=cosine skips")
    assert str(found.cause.proof) == "necessary and sufficient"


def test_a_recorded_canvas_is_filled_again(model: Model, canvas: list[int]) -> None:
    recorder, engine = recorded(model, canvas)
    (record,) = recorder.records
    assert canvas_of(record) == canvas
    assert record.outcome is not None
    assert decode_again(engine, record).tokens == record.outcome.tokens
    engine.generate(canvas[:5], observer=(other := Recorder()))
    assert canvas_of(other.records[0]) is None


def test_canvases_with_other_tokens_behind_the_masks_are_not_compared(
    model: Model, canvas: list[int]
) -> None:
    a, _ = recorded(model, canvas)
    b, _ = recorded(model, [*canvas[:-1], canvas[-2]])
    with pytest.raises(ConfigError, match=f"other tokens were given at position {len(canvas) - 1}"):
        compare(a.records[0], b.records[0])
