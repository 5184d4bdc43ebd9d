"""The page of an answer, made by a server."""

from __future__ import annotations

from skipstone import load
from skipstone.engine import Engine
from tests.server.running import running
from tests.server.test_traces import LOSSY, PATIENT, asking, traced


def test_a_report_has_the_proven_cause_against_another_answer_or_the_exact_one() -> None:
    engine = Engine(load("pebble"), gen_length=32, cache="none")
    with running(engine, PATIENT) as address, asking(address) as http:
        exact, fast = traced(http), traced(http, LOSSY)
        for query in (f"?against={exact}", "?lang=zh"):
            page = http.get(f"/traces/{fast}/report{query}", timeout=300)
            assert page.status_code == 200, page.text
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert "stale-skipped-state" in page.text
            assert "necessary and sufficient" in page.text
            assert fast in page.text
            assert "/tmp/" not in page.text
        assert '<html lang="zh' in page.text
        # What was decoded for the page alone is not kept.
        assert len(http.get("/traces").json()["data"]) == 2
        refused = http.get(f"/traces/{fast}/report?lang=xx")
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "lang"
