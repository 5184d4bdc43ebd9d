"""Who may ask and how much, held against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import openai
import pytest

from skipstone import load
from skipstone.engine import Engine
from skipstone.errors import ConfigError
from skipstone.server.access import connections
from skipstone.server.access.account import Account
from skipstone.server.access.connections import Connection
from skipstone.server.access.keys import read_keys
from skipstone.server.app import make_app
from skipstone.server.options import ServerOptions
from tests.helpers.busy import busy_seconds
from tests.helpers.waiting import wait_until
from tests.server.running import client_of, running

ASKED = {"model": "pebble", "messages": [{"role": "user", "content": "Who is Newton, physics?"}]}
PAGE = "https://page.example"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load("pebble"), gen_length=32)


def test_only_who_knows_a_key_may_ask(engine: Engine) -> None:
    options = ServerOptions(keys=("first-key", "second-key"), cors_origins=(PAGE,))
    with running(engine, options) as address, httpx.Client(base_url=address[:-3]) as http:

        def models(authorization: str | None) -> httpx.Response:
            headers = {} if authorization is None else {"authorization": authorization}
            return http.get("/v1/models", headers=headers)

        for good in ("Bearer first-key", "bearer second-key"):
            assert models(good).status_code == 200
        for bad in (None, "Bearer", "Bearer first-ke", "Bearer first-key2", "Basic first-key"):
            refused = models(bad)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.json()["error"]["code"] == "invalid_api_key"
        with client_of(address) as stranger, pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        assert http.get("/health").status_code == 200
        # A browser asks whether it may ask without its key.
        asks = {"origin": PAGE, "access-control-request-method": "POST"}
        assert http.options("/v1/chat/completions", headers=asks).status_code == 200


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("one # of Ann\n\n# nobody's\ntwo\n")
    assert read_keys(path, "three, one") == ("three", "one", "two")
    assert read_keys(None, "") == ()
    path.write_text("# none\n")
    with pytest.raises(ConfigError, match="has no key"):
        read_keys(path, "three")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path, "")
    with pytest.raises(ConfigError, match="API key 1 cannot be sent") as caught:
        read_keys(None, "clé")
    assert "clé" not in str(caught.value)


def test_a_body_that_is_too_long_is_refused(engine: Engine) -> None:
    told = list[Account]()
    options = ServerOptions(max_body=1000)
    with running(engine, options, told.append) as address, httpx.Client() as http:
        where = f"{address}/chat/completions"
        content = json.dumps(ASKED).encode()
        kind = {"content-type": "application/json"}
        fits = content + b" " * (1000 - len(content))
        assert http.post(where, content=fits, headers=kind).status_code == 200
        # With its length before it, and in pieces of which nobody knows how many come.
        for body in (fits + b" ", (b" " * 300 for _ in range(50))):
            refused = http.post(where, content=body, headers=kind)
            assert refused.status_code == 413
            assert refused.json()["error"]["code"] == "body_too_large"
            assert "more than the 1000 bytes" in refused.json()["error"]["message"]
    assert [one.error for one in told] == [None, "body_too_large", "body_too_large"]


@pytest.mark.parametrize(
    ("options", "host", "status"),
    [
        ({}, "localhost:8000", 200),
        ({}, "LocalHost.", 200),
        ({}, "[::1]:8000", 200),
        ({}, "192.0.2.7", 200),
        ({}, "rebound.example:8000", 403),
        ({}, "127.0.0.1.rebound.example", 403),
        ({}, "localhost.rebound.example", 403),
        ({"allowed_hosts": ("Proxy.example",)}, "proxy.example", 200),
        ({"allowed_hosts": ("proxy.example",)}, "rebound.example", 403),
        ({"allowed_hosts": ("*",)}, "rebound.example", 200),
        ({"keys": ("sesame",)}, "proxy.example", 200),
        ({"host": "0.0.0.0"}, "proxy.example", 200),
        ({"host": "0.0.0.0", "allowed_hosts": ("a.example",)}, "proxy.example", 403),
    ],
)
def test_a_page_cannot_ask_by_a_name_of_its_own(
    engine: Engine, options: dict[str, Any], host: str, status: int
) -> None:
    app = make_app(engine, ServerOptions(**options))

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
            return await http.get("http://x/health", headers={"host": host})

    answer = asyncio.run(asked())
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "host_not_allowed"


def test_pages_of_other_origins_may_ask_only_if_they_are_named(engine: Engine) -> None:
    for origins, allowed in (((), None), ((PAGE,), PAGE)):
        with running(engine, ServerOptions(cors_origins=origins)) as address:
            answer = httpx.get(f"{address}/models", headers={"origin": PAGE})
            assert answer.headers.get("access-control-allow-origin") == allowed
            other = httpx.get(f"{address}/models", headers={"origin": "https://other.example"})
            assert "access-control-allow-origin" not in other.headers
    with pytest.raises(ConfigError, match="must be an origin"):
        ServerOptions(cors_origins=("page.example",))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"model": "pebble", "model": "other"}', "the key 'model' is given twice"),
        (b'{"model": "\\ud800"}', "lone surrogate"),
        (b'{"model": "\xff"}', "byte 11 is not UTF-8"),
        (b'{"temperature": NaN}', "NaN is no number"),
        (b'{"temperature": -Infinity}', "-Infinity is no number"),
        (b'{"metadata": ' + b"[" * 65 + b"]" * 65 + b"}", "more than 64 deep"),
        (b"[" * 100_000, "more than 64 deep"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"model"', "Expecting"),
        (b"", "Expecting value"),
    ],
)
def test_json_of_two_meanings_is_refused(body: bytes, said: str, served: str) -> None:
    kind = {"content-type": "application/json"}
    refused = httpx.post(f"{served}/chat/completions", content=body, headers=kind)
    assert refused.status_code == 400
    assert said in refused.json()["error"]["message"]


@pytest.fixture(scope="module")
def served(engine: Engine) -> Iterator[str]:
    with running(engine, ServerOptions()) as address:
        yield address


def test_what_is_not_said_to_be_json_is_refused(served: str) -> None:
    """Pages of other origins may send such bodies without asking first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        headers = {"content-type": kind} if kind else {}
        content = json.dumps(ASKED).encode()
        refused = httpx.post(f"{served}/chat/completions", content=content, headers=headers)
        assert refused.status_code == 415


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("texts", [False, True])
def test_an_account_says_what_was_used_and_no_text_unless_asked(
    engine: Engine, stream: bool, texts: bool
) -> None:
    told, alone = list[Account](), engine.generate("Who is Newton, physics?")
    with running(engine, ServerOptions(log_prompts=texts), told.append) as address:
        answer = httpx.post(f"{address}/chat/completions", json={**ASKED, "stream": stream, "n": 2})
        missed = httpx.get(f"{address}/nowhere")
    account, other = told
    assert account.id == answer.headers["x-request-id"] != missed.headers["x-request-id"]
    assert (account.route, account.status, account.error) == ("/v1/chat/completions", 200, None)
    assert account.prompt_tokens == alone.prompt_tokens
    assert account.completion_tokens == 2 * alone.length
    assert account.first_commit is not None
    assert 0 < account.first_commit <= account.seconds
    assert account.answers == ([alone.text] * 2 if texts else [])
    assert ["Newton, physics" in prompt for prompt in account.prompts] == [True] * texts
    assert (other.route, other.status) == ("other", 404)


def test_an_error_that_nobody_foresaw_is_named_and_tells_nothing(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = "of a prompt"

    def fail(*given: object, **settings: object) -> None:
        raise RuntimeError(hidden)

    monkeypatch.setattr(engine, "submit", fail)
    with running(engine, ServerOptions()) as address:
        answer = httpx.post(f"{address}/chat/completions", json=ASKED)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert answer.headers["x-request-id"] in caplog.text
    assert "RuntimeError" in caplog.text
    assert hidden not in caplog.text + answer.text


def test_a_body_with_millions_of_errors_is_refused_by_its_first(served: str) -> None:
    """An error for each would take gigabytes, and minutes in which nobody else is answered."""
    empty = list[int]()
    many: dict[str, object] = {"model": "pebble", "prompt": [empty] * 200_000}
    bodies: tuple[tuple[str, dict[str, object], str], ...] = (
        ("completions", many, "prompt.0 is []"),
        ("completions", {**many, "prompt": [1] * 200_000 + ["a"]}, "prompt.200000 is 'a'"),
        ("completions", {**many, "prompt": ["a"] * 200_000}, "at most 1024 items"),
        (
            "chat/completions",
            {**ASKED, "messages": [dict[str, str]()] * 200_000},
            "messages.0.role is missing",
        ),
        ("chat/completions", {**ASKED, "stop": [1] * 200_000}, "stop.0 is 1"),
        ("chat/completions", {**ASKED, "skipstone": {"stop_ids": [""] * 200_000}}, "skipstone."),
        ("chat/completions", {**ASKED, "metadata": {f"{i}": i for i in range(9999)}}, "9999 mem"),
        ("fill", {"model": "pebble", "text": [0] * 200_000}, "text.0 is 0"),
    )
    with httpx.Client(base_url=served, timeout=60) as http:
        for path, body, said in bodies:
            began = busy_seconds()
            refused = http.post(f"/{path}", json=body)
            assert refused.status_code == 400
            assert said in refused.json()["error"]["message"], refused.text
            assert busy_seconds() - began < 3.0, (path, said)


class Clients:
    """Those that a server knows, by the address that each has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._made, self._lost = set[object](), set[object]()
        for name, known in (("connection_made", self._made), ("connection_lost", self._lost)):
            monkeypatch.setattr(Connection, name, self._noting(name, known))

    @staticmethod
    def _noting(name: str, known: set[object]) -> Callable[[Connection, Any], None]:
        call = getattr(Connection, name)

        def noted(own: Connection, given: Any) -> None:
            call(own, given)
            known.add(own.client)

        return noted

    def wait_for(self, client: socket.socket) -> None:
        """Until it is there; from then on it is waited for."""
        wait_until(lambda: client.getsockname() in self._made)

    def wait_for_the_end_of(self, client: socket.socket) -> None:
        wait_until(lambda: client.getsockname() in self._lost)


def test_connections_that_say_nothing_are_ended_and_too_many_are_refused(
    served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a descriptor; where none is left, nobody is answered."""
    where, clients = (urlsplit(served).hostname, urlsplit(served).port), Clients(monkeypatch)
    with socket.create_connection(where, timeout=60) as slow, monkeypatch.context() as patch:
        clients.wait_for(slow)
        patch.setattr(connections, "PATIENCE_SECONDS", 0.3)
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):  # head and body may come one by one
            part = slow.recv(1000)
            assert part
            answer += part
        assert answer.startswith(b"HTTP/1.1 200")
        # It is not idle, so that it would be ended for that.
        slow.sendall(b"GET /hea")
        clients.wait_for_the_end_of(slow)
    with socket.create_connection(where, timeout=60) as bomb:
        # It is refused before all of it was read.
        with contextlib.suppress(ConnectionError):
            bomb.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
        assert bomb.recv(1000).startswith(b"HTTP/1.1 400")
    monkeypatch.setattr(connections, "most_connections", lambda: 1)
    with socket.create_connection(where), socket.create_connection(where, timeout=60) as second:
        assert second.recv(1000).startswith(b"HTTP/1.1 503")
    monkeypatch.undo()
    assert httpx.get(f"{served}/models").status_code == 200


def test_an_address_that_there_is_not_says_what_there_is(served: str) -> None:
    root = served.removesuffix("/v1")
    lost = httpx.post(f"{root}/chat/completions", json=ASKED)
    assert lost.status_code == 404
    assert "ends with /v1" in lost.json()["error"]["message"]
    # Not a redirect to whatever host the client has named.
    assert httpx.post(f"{served}/chat/completions/", json=ASKED).status_code == 404
    wrong = httpx.get(f"{served}/chat/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    packed = {"content-encoding": "gzip", "content-type": "application/json"}
    refused = httpx.post(f"{served}/chat/completions", content=b"\x1f\x8b", headers=packed)
    assert refused.status_code == 415


def test_a_connection_of_which_nothing_is_read_is_ended(
    served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, count = (urlsplit(served).hostname, urlsplit(served).port), 1000
    whole, clients = len(httpx.get(f"{served[:-3]}/openapi.json").content), Clients(monkeypatch)
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.settimeout(60)
        reader.connect(where)
        clients.wait_for(reader)
        monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.5)
        reader.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * count)
        clients.wait_for_the_end_of(reader)
        found = 0
        with contextlib.suppress(ConnectionError):
            while part := reader.recv(2**20):
                found += len(part)
    assert found < count * whole
