"""Shared by the tests of a server: a diagnosis has its share of a busy machine."""

from __future__ import annotations

import pytest

from skipstone.server.traces import examiner


@pytest.fixture(autouse=True)
def no_nicer_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind whatever else wants the processor, it takes minutes where a test waits for it."""
    monkeypatch.setattr(examiner, "_NICE", 0)
