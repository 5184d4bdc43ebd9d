"""Replicas in a cluster: started, replaced one after the other, and ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from skipstone.clusters import workers_of
from skipstone.engine import Engine
from skipstone.errors import ConfigError, SkipstoneError
from skipstone.quoting import shown
from skipstone.server.options import ServerOptions
from skipstone.server.replicas.replica import Replica
from skipstone.server.replicas.router import TOLD_SECONDS, LeastWorkRouter

_MORE_REQUESTS = 64
"""Beside those that take a place in the engine: those that are refused, or ask what is served."""
_HEALTH_PERIOD_SECONDS, _HEALTH_SECONDS = 5.0, 30.0
_LOADS = 3
"""Times that models may fail to load at the start, before it is given up."""


@dataclass
class Deployment:
    """Replicas of one engine."""

    make: Callable[[], Engine]
    """Makes the engine where a replica is."""
    options: ServerOptions
    replicas: int
    slots: int
    """Answers that each decodes at once."""
    gpus: int
    """That each takes."""
    _generation: int = 0
    _changing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """Of the application, as Ray lists it."""
        return f"skipstone-{self.options.name.strip('/').replace('/', '-')}"

    def run(self) -> DeploymentHandle[Replica]:
        """Start replicas, or replace those that there are, one after the other.

        Those that are replaced answer first what they were asked, for as long as the server may
        drain; what is left then is asked of others.

        Raises:
            SkipstoneError: they cannot be started.
        """
        own = replace(self.options, keys=())
        replica = serve.deployment(
            name="replica",
            num_replicas=self.replicas,
            ray_actor_options={"num_cpus": 1, "num_gpus": self.gpus},
            max_ongoing_requests=self.slots + self.options.max_waiting + _MORE_REQUESTS,
            graceful_shutdown_timeout_s=self.options.drain,
            graceful_shutdown_wait_loop_s=0.1,
            health_check_period_s=_HEALTH_PERIOD_SECONDS,
            health_check_timeout_s=_HEALTH_SECONDS,
            max_constructor_retry_count=_LOADS,
            logging_config=LoggingConfig(log_level="ERROR", enable_access_log=False),
            request_router_config={
                "request_router_class": LeastWorkRouter,
                "request_routing_stats_period_s": TOLD_SECONDS,
            },
        )(Replica)
        app = replica.bind(self.make, own, self._generation)
        try:
            return serve.run(app, name=self.name, route_prefix=None)
        except RuntimeError as error:
            why = _cause(self._failure() or str(error))
            raise SkipstoneError(f"the replicas cannot be started: {why}") from None

    def _failure(self) -> str:
        """What Ray Serve says of why there are no replicas: a traceback; nothing if it is gone."""
        application = serve.status().applications.get(self.name)
        return "\n".join(
            one.message for one in (application.deployments.values() if application else ())
        )

    def restart(self) -> None:
        """Replace the replicas by new ones, which load the model again; nobody waits for it."""

        def change() -> None:
            with self._changing:
                self._generation += 1
                self.run()

        threading.Thread(target=change, name="skipstone-restart", daemon=True).start()


@contextmanager
def deployed(deployment: Deployment) -> Iterator[DeploymentHandle[Replica]]:
    """Replicas until the end of the block, in the cluster that this process is connected to.

    Raises:
        ConfigError: there is no room for so many, or a server of that name has its replicas there.
        SkipstoneError: they cannot be started.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    _check_room(deployment)
    # Requests come by the front; nothing else listens.
    serve.start(proxy_location="Disabled")
    if deployment.name in serve.status().applications:
        raise ConfigError(
            f"the cluster has an application {shown(deployment.name)} already; give another "
            f"--name, or end that one"
        )
    try:
        yield deployment.run()
    finally:
        serve.delete(deployment.name)


def _check_room(deployment: Deployment) -> None:
    room = workers_of(deployment.gpus)
    if deployment.replicas > room:
        kind = "GPU" if deployment.gpus else "CPU"
        raise ConfigError(
            f"{deployment.replicas} replicas need a {kind} each, and the cluster has {room}; give "
            f"fewer --replicas, or a larger cluster"
        )


def _cause(said: str) -> str:
    """What went wrong, of a traceback from elsewhere: the last line that says something."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("skipstone.errors.")]
    return own[-1].partition(": ")[2] if own else lines[-1]
