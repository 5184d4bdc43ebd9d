"""A short form of ``tests.server.under_load``, and that it finds what it is for."""

from __future__ import annotations

import pytest

from skipstone import load
from skipstone.engine import Engine
from skipstone.server.answer.text import FinalText
from skipstone.server.options import ServerOptions
from tests.server.running import running
from tests.server.under_load import differ


def test_answers_under_load_are_the_answers_alone() -> None:
    engine = Engine(load("pebble", device="cpu", dtype="float32"), gen_length=8)
    show = FinalText._show

    def show_otherwise(text: FinalText, shown: str, tokens: int) -> str:
        """Other letters for those that are decoded beside others."""
        return show(text, shown.upper() if engine.load.running > 1 else shown, tokens)

    with running(engine, ServerOptions()) as address:
        root = address.removesuffix("/v1")
        assert differ(root, 16, 8) == []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FinalText, "_show", show_otherwise)
            assert differ(root, 16, 8)
