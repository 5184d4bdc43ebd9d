"""What Prometheus reads: counts of the server, and the load of its engine."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
)

from skipstone.engine import Engine
from skipstone.server.access.account import Account

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_HUNG_UP = "none"


class Metrics:
    """Of one server; in a registry of its own, so that several may live in a process."""

    def __init__(self, engine: Engine | None) -> None:
        """Nothing was asked yet; None: the engines are elsewhere."""
        self._registry = own = CollectorRegistry()
        self._requests = Counter(
            "skipstone_requests",
            "Requests that are over, by route and HTTP status (none: the client hung up before).",
            ("route", "status"),
            registry=own,
        )
        self._read = Counter("skipstone_prompt_tokens", "Tokens of prompts.", registry=own)
        self._written = Counter("skipstone_completion_tokens", "Tokens of answers.", registry=own)
        self._steps = Counter(
            "skipstone_steps", "Steps of answers, each counted for itself.", registry=own
        )
        self._first = Histogram(
            "skipstone_first_commit_seconds",
            "From the head of a request to the first token that was decided.",
            registry=own,
            buckets=_SECONDS,
        )
        self._whole = Histogram(
            "skipstone_request_seconds",
            "From the head of a request to the end of its answer.",
            ("route",),
            registry=own,
            buckets=_SECONDS,
        )
        if engine is not None:
            self._look_at(engine)

    def _look_at(self, engine: Engine) -> None:
        """What there is to do is read when somebody asks."""
        for name, said in (
            ("running", "Answers that are being decoded."),
            ("waiting", "Answers that wait for a slot or for memory."),
            ("slots", "Answers that may be decoded at once."),
            ("positions", "Positions of keys and values that are taken."),
            ("waiting_positions", "Positions of the answers that wait."),
            ("most_positions", "Positions for whose keys and values there may be room."),
            ("position_bytes", "Bytes of the keys and values of a position."),
        ):
            gauge = Gauge(f"skipstone_{name}", said, registry=self._registry)
            gauge.set_function(lambda name=name: float(getattr(engine.load, name)))

    def note(self, account: Account) -> None:
        """A request is over."""
        status = _HUNG_UP if account.status is None else str(account.status)
        self._requests.labels(account.route, status).inc()
        self._whole.labels(account.route).observe(account.seconds)
        self._read.inc(account.prompt_tokens)
        self._written.inc(account.completion_tokens)
        self._steps.inc(account.steps)
        if account.first_commit is not None:
            self._first.observe(account.first_commit)

    def families(self) -> list[Metric]:
        """All of it, each metric with its samples."""
        return list(self._registry.collect())

    async def page(self) -> bytes:
        """All of it, in the text format of Prometheus."""
        return generate_latest(self._registry)
