"""Some of the malformed requests of ``tests.fuzz.serve``, and that it finds what it is for."""

from __future__ import annotations

import pytest

from skipstone import load
from skipstone.engine import Engine
from skipstone.server.options import ServerOptions
from tests.fuzz.serve import tried
from tests.server.running import running


def test_malformed_requests_are_refused_and_a_failing_engine_is_found() -> None:
    engine = Engine(load("pebble"), gen_length=8)

    def fail(*given: object, **settings: object) -> None:
        raise RuntimeError

    with running(engine, ServerOptions()) as address:
        ends, found = tried(address.removesuffix("/v1"), 0, 60)
        assert not found
        assert set(ends) == {"2xx", "4xx"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "submit", fail)
            _, found = tried(address.removesuffix("/v1"), 0, 20)
        assert any("5xx" in one for one in found)
