"""Policies of other packages are found by their entry points and checked."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from torch import Tensor

from skipstone import ConfigError, Engine
from skipstone.canvas import StepContext
from skipstone.cli.main import run
from skipstone.models.load import Model
from skipstone.policies import SKIP, UNMASK
from skipstone.registry import GROUP
from skipstone.unmask import Scores, UnmaskPolicy


@dataclass(frozen=True)
class Everything(UnmaskPolicy):
    """Commit whatever may be committed."""

    least: float = 0.0

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        return scores.confidence_BG >= self.least


@dataclass(frozen=True)
class Nothing:
    """Lacks the methods of a policy."""


@dataclass(frozen=True)
class Needy(UnmaskPolicy):
    """Has a setting without a default."""

    least: float


def register(monkeypatch: pytest.MonkeyPatch, name: str, target: str) -> None:
    entry = EntryPoint(name, f"{__name__}:{target}", GROUP)

    def registered() -> list[EntryPoint]:
        return [entry]

    monkeypatch.setattr("skipstone.policies.registered", registered)


def test_a_package_is_found_as_soon_as_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "everything" not in UNMASK.names()
    about = tmp_path / "extra-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1\n")
    entry = f"[{GROUP}]\nunmask.everything = {__name__}:Everything\n"
    (about / "entry_points.txt").write_text(entry)
    # As an installer does: what it writes gets its name when it is whole.
    about.rename(tmp_path / "everything-1.dist-info")
    assert UNMASK.known()["everything"] is Everything
    shutil.rmtree(tmp_path / "everything-1.dist-info")
    assert "everything" not in UNMASK.names()


def test_a_registered_policy_decodes(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    register(monkeypatch, "unmask.everything", "Everything")
    policy = UNMASK.parse("everything:least=0.0")
    assert UNMASK.spell(policy) == "everything:least=0.0"
    result = Engine(model, unmask=policy, gen_length=24, block_length=8).generate([1, 2])
    assert result.stats.num_forwards == 3
    assert "everything" not in SKIP.known()


def test_a_registered_policy_is_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register(monkeypatch, "unmask.everything", "Everything")
    assert run(["policies"]) == 0
    assert (
        "unmask=everything  Commit whatever may be committed.  [tests]" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("unmask.fixed", "Everything", "takes the name of another policy"),
        ("unmask.gone", "Gone", "cannot be imported"),
        ("unmask.register", "register", "is no dataclass"),
        ("unmask.nothing", "Nothing", "no unmask policy"),
        ("unmask.a b", "Everything", "has no name of letters"),
        ("unmask.needy", "Needy", "'least' of 'needy' must be given; write least=VALUE"),
    ],
)
def test_a_registered_policy_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, target: str, message: str
) -> None:
    register(monkeypatch, name, target)
    with pytest.raises(ConfigError, match=message):
        UNMASK.parse(name.removeprefix("unmask."))


def test_the_first_setting_of_a_policy_needs_no_name() -> None:
    assert UNMASK.parse("threshold:0.7") == UNMASK.parse("threshold:value=0.7")
    for text, message in (
        ("threshold:high", "threshold:value is 'high', must be a number"),
        ("threshold:0.7,0.8", "'value' of 'threshold' is given twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            UNMASK.parse(text)
    assert UNMASK.parse("fixed:random,eps=0.1") == UNMASK.parse("fixed:order=random,eps=0.1")
    with pytest.raises(ConfigError, match=r"has no setting '0\.9'"):
        SKIP.parse("cosine:12,0.9")
