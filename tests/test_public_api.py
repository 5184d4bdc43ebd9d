"""What ``import skipstone`` promises."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

import skipstone
from skipstone import (
    ConfigError,
    CosineSkip,
    DualCache,
    Engine,
    Factor,
    Fixed,
    Settings,
    Threshold,
    load,
)
from skipstone.engine import parse_settings
from skipstone.models.load import Model
from skipstone.policies import KINDS
from skipstone.testing.tiny import tiny_model


def test_every_public_name_can_be_imported() -> None:
    for name in skipstone.__all__:
        assert getattr(skipstone, name).__name__ == name
    assert sorted(skipstone.__all__) == skipstone.__all__
    assert set(skipstone.__all__) < set(dir(skipstone))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Enigne"):
        getattr(skipstone, "Enigne")  # noqa: B009 (a literal attribute would be a type error)


def test_records_their_comparison_and_their_diagnosis_open_without_torch() -> None:
    # A module that is None in sys.modules cannot be imported.
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from importlib import import_module; from pkgutil import walk_packages\n"
        "import skipstone, skipstone.record, skipstone.diff, skipstone.diagnosis\n"
        "for package in (skipstone.record, skipstone.diff, skipstone.diagnosis):\n"
        "    for found in walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        import_module(found.name); print(found.name)\n"
        "skipstone.ConfigError\n"
        "assert not any(name.startswith('torch.') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    opened = set(done.stdout.split())
    assert len(opened) > 50
    assert {"skipstone.record.store", "skipstone.diff.align", "skipstone.diagnosis.rules"} < opened
    # Control: what runs the engine does not.
    control = "import sys; sys.modules['torch'] = None; import skipstone.tracing.replay.replay"
    done = subprocess.run([sys.executable, "-c", control], capture_output=True, check=False)
    assert b"import of torch halted" in done.stderr


@pytest.mark.parametrize(
    "value",
    [
        DualCache(refresh_every=3),
        CosineSkip(skip_layer_k=4, similarity_dtype="bfloat16", keep_neighbours=False),
        Threshold(0.7),
        Factor(2.0),
        Fixed(order="random"),
        Settings(cache=DualCache(), gen_length=64, unmask=Fixed(), steps=32),
    ],
)
def test_reprs_can_be_pasted_back(value: object) -> None:
    assert (
        eval(repr(value), {name: getattr(skipstone, name) for name in skipstone.__all__}) == value
    )


def test_settings_survive_their_text_form() -> None:
    settings = Settings(
        cache=DualCache(refresh_every=2),
        unmask=Fixed(order="random"),
        skip=CosineSkip(skip_layer_k=3, reference="previous_step", keep_committed=False),
        gen_length=40,
        block_length=16,
        steps=20,
        temperature=0.5,
        top_p=0.9,
        top_k=20,
        seed=7,
        eos_stop=False,
        budget="stop",
        growing_canvas=True,
        absolute_blocks=True,
        stop_after="block",
        stop_ids=[5, 7],
        reuse_prefix=False,
        suffix_window=9,
    )
    assert parse_settings(settings.as_text()) == settings
    changed = [f.name for f in dataclasses.fields(Settings)]
    defaults = Settings()
    # Every field differs from its default, so none can be lost unseen.
    assert all(getattr(settings, name) != getattr(defaults, name) for name in changed)


def test_every_policy_survives_its_text_form() -> None:
    for kind in KINDS:
        for policy in kind.known().values():
            built = policy()
            assert kind.parse(kind.spell(built)) == built
            assert kind.parse(kind.spell(built, brief=True)) == built


def test_engine_takes_settings_keywords_or_both(model: Model) -> None:
    base = Settings(gen_length=16, block_length=8)
    assert Engine(model, base).settings == base
    assert Engine(model, base, gen_length=24).settings == base.replace(gen_length=24)
    assert Engine(model, gen_length=16, block_length=8).settings == base


def test_a_batch_gives_one_result_a_prompt() -> None:
    engine = Engine(tiny_model(3), gen_length=16, block_length=8)
    results = engine.generate_batch(["w1 w2", [3, 4, 5]])
    assert [r.prompt_tokens for r in results] == [2, 3]
    assert all(len(r.tokens) == 16 for r in results)


def test_a_setting_by_position_is_told_its_name() -> None:
    model = load("pebble")
    for given in (["dual"], ["dual", "threshold:0.9"], [Settings(), "dual"]):
        with pytest.raises(
            ConfigError, match=r"give single ones by name, like Engine\(model, cache"
        ):
            Engine(model, *given)  # type: ignore


@pytest.mark.parametrize("count", [1, 2])
def test_places_that_nobody_takes_are_a_note(count: int) -> None:
    engine = Engine(load("pebble"), gen_length=4)
    results = engine.generate_batch(["Hi"] * count, batch_size=10**9)
    assert len(results) == count
    for result in results:
        (said,) = [note for note in result.notes if "batch_size" in note]
        assert said.startswith("batch_size=1000000000 has no effect")
    for size in (None, count):
        notes = engine.generate_batch(["Hi"] * count, batch_size=size)[0].notes
        assert not any("batch_size" in note for note in notes)
