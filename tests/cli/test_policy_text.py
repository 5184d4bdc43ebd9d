"""What ``skipstone policies NAME`` tells of each policy that comes with the package."""

from __future__ import annotations

import pytest

from skipstone.cli.policy_text import text_of
from skipstone.policies import KINDS

ALL = {f"{kind.name}={name}": made for kind in KINDS for name, made in kind.known().items()}


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_policy_tells_its_rule_its_settings_and_what_they_may_be(name: str) -> None:
    text = text_of(ALL[name])
    assert text.rule
    assert text.source
    for one in text.settings:
        assert one.meaning, f"{name}: {one.name} has no meaning"
        assert one.kind
        assert "Literal" not in one.kind
    for said in text.declares:
        assert not said.endswith(": "), f"{name}: {said!r} does not say what that is"


def test_needs_of_a_cache_are_told_with_what_they_cost() -> None:
    (said,) = (s for s in text_of(ALL["cache=dllm"]).declares if s.startswith("needs"))
    assert said.startswith("needs layer_changes: ")
    assert "counts in --memory" in said
    assert {s.kind for s in text_of(ALL["skip=ratio"]).settings if s.name == "ties"} == {
        "left, torch"
    }
