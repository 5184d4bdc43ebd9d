"""Traces over HTTP: recorded beside others, kept, and held against each other."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import re
import shutil
import socket
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from skipstone import load
from skipstone.cli.main import run
from skipstone.engine import Engine
from skipstone.record import MemoryTrace, RunRecord, open_trace
from skipstone.server.options import ServerOptions
from skipstone.server.traces import examiner, kept
from skipstone.tracing import Recorder
from tests.helpers.waiting import wait_until
from tests.server.running import client_of, running

QUESTION = "Who is Newton, physics?"
LOSSY = "cosine:skip_layer_k=2,skip_threshold=0.5"
PATIENT = ServerOptions(diagnosis_limit=600)
"""A slow machine leaves no experiment out."""
NOWHERE = f"trace-{'0' * 32}"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load("pebble"), gen_length=32)


@pytest.fixture(scope="module")
def http(engine: Engine) -> Iterator[httpx.Client]:
    with running(engine, PATIENT) as address, asking(address) as http:
        yield http


def asking(address: str) -> httpx.Client:
    return httpx.Client(base_url=address.removesuffix("/v1"), timeout=300)


def answer(http: httpx.Client, skip: str = "none", **more: Any) -> Any:
    """An answer, with its trace."""
    body = {"model": "pebble", "messages": [{"role": "user", "content": QUESTION}], **more}
    said = http.post(
        "/v1/chat/completions", json={**body, "skipstone": {"trace": "decisions", "skip": skip}}
    )
    assert said.status_code == 200, said.text
    return said.json()


def traced(http: httpx.Client, skip: str = "none") -> str:
    said = answer(http, skip)["choices"][0]["skipstone"]
    assert said["trace_error"] is None
    return said["trace_id"]


def test_a_wrong_answer_becomes_a_proof_while_others_are_answered(
    engine: Engine, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, found = {"a": traced(http), "b": traced(http, LOSSY)}, list[httpx.Response]()
    begun, may_go_on = threading.Event(), threading.Event()
    ask = examiner.Examiner.ask

    async def held(self: examiner.Examiner, folder: Path, command: str, *arguments: str) -> bytes:
        begun.set()
        assert await asyncio.to_thread(may_go_on.wait, 300)
        return await ask(self, folder, command, *arguments)

    monkeypatch.setattr(examiner.Examiner, "ask", held)
    first = threading.Thread(target=lambda: found.append(http.post("/traces/diagnose", json=pair)))
    first.start()
    try:
        assert begun.wait(300)
        second = http.post("/traces/diagnose", json=pair)
        assert second.status_code == 429
        assert second.headers["retry-after"]
        assert second.json()["error"]["code"] == "diagnosis_busy"
        for wrong in ({"b": NOWHERE}, {**pair, "a": NOWHERE}):
            assert http.post("/traces/diagnose", json=wrong).status_code == 404
        assert answer(http)["choices"][0]["message"]["content"] == engine.generate(QUESTION).text
    finally:
        may_go_on.set()
        first.join(300)
    (diagnosis,) = (said.json() for said in found)
    assert (diagnosis["a"], diagnosis["b"]) == (pair["a"], pair["b"])
    assert diagnosis["verdict"] == "stale-skipped-state"
    assert diagnosis["findings"][0]["proof"] == "necessary and sufficient"
    assert diagnosis["findings"][0]["where"] == {
        "block": 0, "step": 1, "layer": 2, "position": 22
    }  # fmt: skip


def test_a_trace_is_of_one_answer_as_if_it_were_alone(
    engine: Engine, http: httpx.Client, tmp_path: Path
) -> None:
    alone = Recorder()
    result = engine.generate(QUESTION, observer=alone)
    # It is recorded to its end, though the answer ends before a text.
    said = answer(http, n=2, stop=["Newton"])["choices"]
    assert [one["message"]["content"] for one in said] == [result.text.partition("Newton")[0]] * 2
    ids = [one["skipstone"]["trace_id"] for one in said]
    assert len(set(ids)) == 2
    for name in ids:
        packed = http.get(f"/traces/{name}")
        assert packed.headers["content-type"] == "application/zip"
        zipfile.ZipFile(io.BytesIO(packed.content)).extractall(tmp_path)
        with open_trace(tmp_path / name) as trace:
            (record,) = trace.records
            assert decided(record) == decided(alone.records[0])
            assert record.outcome is not None
            assert record.outcome.text == result.text


def decided(record: RunRecord) -> list[tuple[int, ...]]:
    return [tuple(step.ids_after) for step in record.steps]


@pytest.mark.parametrize("endpoint", ["chat", "text"])
def test_a_stream_ends_with_the_id_of_its_trace(
    http: httpx.Client, engine: Engine, endpoint: str
) -> None:
    with client_of(f"{str(http.base_url).rstrip('/')}/v1") as client:
        asked: dict[str, Any] = {"model": "pebble", "stream": True}
        asked["extra_body"] = {"skipstone": {"trace": "sketches"}}
        if endpoint == "chat":
            asked["messages"] = [{"role": "user", "content": QUESTION}]
            chunks = list(client.chat.completions.create(**asked))
        else:
            ids = engine.model.text.encode(QUESTION)
            chunks = list(client.completions.create(prompt=ids, **asked))
    said = [chunk.choices[0].model_extra["skipstone"] for chunk in chunks]
    assert said[:-1] == [None] * (len(chunks) - 1)
    cards = {card["id"]: card for card in http.get("/traces").json()["data"]}
    card = cards[said[-1]["trace_id"]]
    assert (card["state"], card["level"]) == ("finished", "sketches")


def test_a_download_leaves_no_file_and_wrong_parameters_are_refused(
    http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = traced(http)
    monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path}")
    for given in ("bytes=99999999-", "bytes=x", "bytes=0-9"):
        whole = http.get(f"/traces/{name}", headers={"range": given})
        assert int(whole.headers["content-length"]) == len(whole.content)
        assert zipfile.ZipFile(io.BytesIO(whole.content)).testzip() is None
    assert list(tmp_path.iterdir()) == []
    # Not the report against another baseline than was meant.
    refused = http.get(f"/traces/{name}/report", params={"agianst": name})
    assert refused.status_code == 400
    assert "did you mean 'against'" in refused.json()["error"]["message"]


def test_the_list_has_settings_and_no_text(http: httpx.Client) -> None:
    name = traced(http, LOSSY)
    listed = http.get("/traces")
    card = listed.json()["data"][0]
    assert (card["id"], card["state"], card["model"]) == (name, "finished", "pebble")
    assert card["settings"]["skip"].startswith("cosine:skip_layer_k=2")
    assert "Newton" not in listed.text
    assert "prompt" not in listed.text


def test_nothing_is_kept_unless_asked(engine: Engine, tmp_path: Path) -> None:
    with running(engine, ServerOptions(traces=tmp_path)) as address, client_of(address) as client:
        asked: Any = [{"role": "user", "content": QUESTION}]
        said = client.chat.completions.create(model="pebble", messages=asked)
        assert said.choices[0].model_extra == {"skipstone": None}
    assert not list(tmp_path.iterdir())


def test_the_oldest_give_way(engine: Engine, tmp_path: Path) -> None:
    options = ServerOptions(traces=tmp_path, keep_traces=2)
    with running(engine, options) as address, asking(address) as http:
        first, second, third = (traced(http) for _ in range(3))
        assert [card["id"] for card in http.get("/traces").json()["data"]] == [third, second]
        assert http.get(f"/traces/{first}").status_code == 404
    # What lies in a folder that was named is there for the next server.
    size = sum(path.stat().st_size for path in (tmp_path / third).rglob("*"))
    options = ServerOptions(traces=tmp_path, trace_space=int(2.5 * size))
    with running(engine, options) as address, asking(address) as http:
        fourth = traced(http)
        assert [card["id"] for card in http.get("/traces").json()["data"]] == [fourth, third]
    options = ServerOptions(traces=tmp_path, trace_space=size // 2)
    with running(engine, options) as address, asking(address) as http:
        said = answer(http)["choices"][0]
        assert said["message"]["content"] == engine.generate(QUESTION).text
        assert said["skipstone"]["trace_id"] is None
        assert re.fullmatch(r"it takes \d+ bytes.*--trace-space", said["skipstone"]["trace_error"])
        assert len(http.get("/traces").json()["data"]) == 2


def test_a_folder_that_nobody_named_is_gone_in_the_end(engine: Engine) -> None:
    with running(engine, ServerOptions()) as address, asking(address) as http:
        traced(http)
        with pytest.MonkeyPatch.context() as patch:
            homes = list[Path]()

            def seen(trace: MemoryTrace, path: Path) -> None:
                homes.append(path.parent)

            patch.setattr(kept, "write_trace", seen)
            answer(http)
        (home,) = homes
        assert home.is_dir()
        assert home.stat().st_mode & 0o077 == 0
    assert not home.exists()


def test_traces_are_kept_after_their_folder_was_cleaned_away(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with running(engine, ServerOptions()) as address, asking(address) as http:
        lost = traced(http)
        (folder,) = tmp_path.glob("skipstone-traces-*")
        shutil.rmtree(folder)
        assert http.get("/traces").json()["data"] == []
        assert http.get(f"/traces/{lost}").status_code == 404
        assert http.get(f"/traces/{traced(http)}").status_code == 200
    assert not [*tmp_path.glob("skipstone-traces-*")]


def test_a_full_disk_is_named_and_the_answer_arrives(
    engine: Engine, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = http.get("/traces").json()

    def fill(trace: MemoryTrace, path: Path) -> None:
        path.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(kept, "write_trace", fill)
    said = answer(http)["choices"][0]
    assert said["message"]["content"] == engine.generate(QUESTION).text
    assert said["skipstone"]["trace_id"] is None
    assert said["skipstone"]["trace_error"] == (
        "the folder of traces cannot be used (No space left on device); whoever runs the server "
        "may give another one (--traces)"
    )
    assert http.get("/traces").json() == before


def test_examining_ends_at_its_limit_and_with_its_client(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, begun = asyncio.create_subprocess_exec, list[asyncio.subprocess.Process]()

    async def endless(*command: str, **options: Any) -> asyncio.subprocess.Process:
        waits = (sys.executable, "-c", "import time; time.sleep(600)")
        begun.append(await begin(*waits, **options))
        return begun[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", endless)
    monkeypatch.setattr(examiner, "_LOADING_SECONDS", 0.0)
    with running(engine, ServerOptions(diagnosis_limit=600)) as address, asking(address) as http:
        body = json.dumps({"b": traced(http)})
        head = "POST /traces/diagnose HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((http.base_url.host, http.base_url.port)) as client:
            client.sendall((head + body).encode())
            wait_until(lambda: begun)
        wait_until(lambda: begun[0].returncode is not None)
    with running(engine, ServerOptions(diagnosis_limit=0.5)) as address, asking(address) as http:
        pair = {"b": traced(http)}
        for number in (1, 2):  # the first one is over: another one begins
            late = http.post("/traces/diagnose", json=pair)
            assert late.status_code == 504
            assert late.json()["error"]["code"] == "time_limit"
            assert begun[number].returncode is not None


@pytest.mark.parametrize(
    "name", ["..%2f..%2fetc", "%2e%2e", "trace-", f"trace-{'A' * 32}", f"{NOWHERE}%00", NOWHERE]
)
def test_an_id_that_there_is_not_is_not_found(http: httpx.Client, name: str) -> None:
    for said in (
        http.get(f"/traces/{name}"),
        http.get(f"/traces/{name}/report"),
        http.post("/traces/diagnose", json={"b": name}),
        http.post("/traces/diagnose", json={"a": name, "b": name}),
    ):
        assert said.status_code == 404
        assert said.json()["error"]["type"] == "invalid_request_error"


def test_levels_and_fields_are_refused_by_name(engine: Engine, http: httpx.Client) -> None:
    for level, said in (
        ("decision", "did you mean 'decisions'"),
        ("full", "not recorded by a server; ask for decisions or sketches"),
        (True, "trace is True"),
    ):
        body = {"model": "pebble", "prompt": "a", "skipstone": {"trace": level}}
        refused = http.post("/v1/completions", json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "skipstone.trace"
        assert said in refused.json()["error"]["message"]
    refused = http.post("/traces/diagnose", json={"a": NOWHERE, "c": NOWHERE, "b": NOWHERE})
    assert refused.json()["error"]["code"] == "unknown_parameter"
    options = ServerOptions(keep_traces=0, keys=("key",))
    with running(engine, options) as address, asking(address) as guarded:
        assert guarded.get("/traces").status_code == 401
        assert guarded.post("/traces/diagnose", json={"b": NOWHERE}).status_code == 401
        guarded.headers["authorization"] = "Bearer key"
        body = {"model": "pebble", "prompt": "a", "skipstone": {"trace": "decisions"}}
        refused = guarded.post("/v1/completions", json=body)
        assert "--keep-traces 0" in refused.json()["error"]["message"]


@pytest.mark.parametrize("place", ["file", "file/deeper", "/proc/traces"])
def test_a_folder_that_cannot_be_one_is_refused_before_the_server_starts(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("of somebody's")
    path = tmp_path / place
    # What comes next is the host: without the refusal, that is refused.
    assert run(["serve", "--traces", str(path), "--host", "no host"]) == 2
    said = capsys.readouterr().err
    assert f"--traces is '{path}', must be a folder that can be written into or made (" in said
    assert (tmp_path / "file").read_text() == "of somebody's"


def test_a_folder_of_traces_is_made_for_nobody_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "traces"
    assert run(["serve", "--traces", str(path), "--host", "no host"]) == 2
    assert "cannot listen there" in capsys.readouterr().err
    assert path.stat().st_mode & 0o777 == 0o700
    assert not list(path.iterdir())
