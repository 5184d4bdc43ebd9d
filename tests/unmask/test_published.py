"""What the authors' code commits in every step, on tiny checkpoints: recorded truth beside ours."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from skipstone import Model, load
from skipstone.testing.golden.case import GoldenCase
from skipstone.testing.golden.folder import GoldenFolder, read
from skipstone.testing.golden.replay import miss

pytestmark = pytest.mark.golden

CHECKPOINTS = ("mha", "gqa", "deep")
POLICIES = (
    "orders",
    "eb",
    "credit_decoding",
    "klass",
    "localleap",
    "slowfast",
    "suffix_window_dpad",
    "frechet_none",
    "frechet_prefix",
    "frechet_dual",
)


@cache
def model_of(checkpoint: Path) -> Model:
    return load(checkpoint, device="cpu", dtype="float32")


def recorded(golden_dir: Path, policy: str, checkpoint: str) -> GoldenFolder:
    folder = golden_dir / "policies" / policy
    if not (folder / f"{checkpoint}.json").exists():
        pytest.skip(f"{checkpoint} of {policy} is not recorded here")
    return next(found for found in read(folder) if found.checkpoint.name == checkpoint)


def cases_of(found: GoldenFolder) -> list[GoldenCase]:
    cases = [case for case in found.cases if isinstance(case, GoldenCase)]
    assert len(cases) == len(found.cases) > 15
    return cases


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("policy", POLICIES)
def test_tokens_and_the_commits_of_every_step_are_the_recorded_ones(
    golden_dir: Path, policy: str, checkpoint: str
) -> None:
    found = recorded(golden_dir, policy, checkpoint)
    model = model_of(found.checkpoint)
    assert {case.name: miss(model, case) for case in cases_of(found)} == {
        case.name: "" for case in cases_of(found)
    }
    assert all(case.wanted.commits for case in cases_of(found))


@pytest.mark.parametrize(
    ("policy", "setting", "other"),
    [
        ("eb", "free=last", "free=largest"),
        ("eb", "gamma=", "gamma=2"),
        ("orders", "margin:each=1,threshold=None", "entropy:each=1"),
        ("slowfast", "cut=true", "cut=false"),
        ("slowfast", "explore=6", "explore=5"),
        ("localleap", "radius=8", "radius=1"),
        ("localleap", "relaxed=0.35", "relaxed=0.9"),
        ("klass", "history=2", "history=1"),
        ("klass", "drift=0.2", "drift=20.0"),
        ("klass", "most_entropy", "entropy"),
        ("credit_decoding", "alpha=0.7", "alpha=0.6"),
        ("credit_decoding", "beta=0.8", "beta=0.9"),
        ("frechet_dual", "margin=0.25", "margin=0.02"),
    ],
)
def test_another_setting_misses_some(
    golden_dir: Path, policy: str, setting: str, other: str
) -> None:
    # The first of them: the paper's bound is not that of the published code.
    found = recorded(golden_dir, policy, "deep")
    changed = [
        replace(case, settings={**case.settings, "unmask": unmask.replace(setting, other)})
        for case in cases_of(found)
        if setting in (unmask := case.settings["unmask"])
    ]
    missed = [miss(model_of(found.checkpoint), case) for case in changed]
    assert any(missed)
    assert not any("refuses" in said for said in missed)
