"""A server in a thread, on a port of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from openai import OpenAI

from skipstone.engine import Engine
from skipstone.server.access.account import Account
from skipstone.server.app import make_app
from skipstone.server.options import ServerOptions
from skipstone.server.serving import address_of, bind, server_of


@contextmanager
def running(
    engine: Engine, options: ServerOptions, log: Callable[[Account], object] = lambda account: None
) -> Iterator[str]:
    """Serve until the end of the block; the address is that of an OpenAI client."""
    with bind(replace(options, port=0)) as bound:
        server = server_of(make_app(engine, options, log))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
        thread.start()
        try:
            yield address_of(bound)
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()


def client_of(address: str, **options: object) -> OpenAI:
    """The official client; it asks once."""
    return OpenAI(base_url=address, api_key="none", max_retries=0, timeout=30)
