"""``skipstone serve``: the engine over HTTP, for OpenAI's clients."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from skipstone.cli.diagnose import parse_seconds
from skipstone.cli.interrupt import ended_by_sigterm
from skipstone.cli.numbers import bytes_of, check_some, whole
from skipstone.cli.options import RunSpec, given, memory_option, run_options, run_spec
from skipstone.cli.server_log import LOGS
from skipstone.cli.streams import ReaderGoneError, StdoutError, drop_output
from skipstone.cli.terminal import note, say_now
from skipstone.clusters import cluster, gpus_for
from skipstone.errors import ConfigError, OutputError
from skipstone.extras import missing
from skipstone.quoting import shown

if TYPE_CHECKING:
    from skipstone.server.access.account import Account
    from skipstone.server.options import ServerOptions

F = TypeVar("F", bound=Callable[..., object])

_ACCESS = (
    click.option(
        "--api-keys-file",
        type=click.Path(path_type=Path),
        help="Only who knows a key of it may ask, one a line. SKIPSTONE_API_KEYS has more, with "
        "commas between them.",
    ),
    click.option(
        "--max-body",
        default="8MB",
        metavar="SIZE",
        help="Longer requests are refused.  [default: 8MB]",
    ),
    click.option(
        "--max-waiting",
        type=whole,
        default=256,
        metavar="N",
        help="Answers that may wait; who comes beyond that is to try again later.  [default: 256]",
    ),
    click.option(
        "--time-limit", metavar="60s", help="In which a request must be answered.  [default: none]"
    ),
    click.option(
        "--drain",
        default="30s",
        metavar="30s",
        help="Time that answers have when the server is stopped.  [default: 30s]",
    ),
    click.option(
        "--cors-origin",
        "cors_origins",
        multiple=True,
        metavar="ORIGIN",
        help="Pages from there may ask, too; may be repeated.  [default: none]",
    ),
    click.option(
        "--allowed-host",
        "allowed_hosts",
        multiple=True,
        metavar="NAME",
        help="A name by which clients may ask, beside addresses and localhost; may be repeated, * "
        "allows all.  [default: all, unless only this machine may ask, without a key]",
    ),
    click.option(
        "--traces",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Where traces that clients ask for lie.  [default: a folder that is removed at the "
        "end]",
    ),
    click.option(
        "--keep-traces",
        type=whole,
        default=100,
        metavar="N",
        help="Traces that are kept, the oldest give way; 0 records none.  [default: 100]",
    ),
    click.option(
        "--trace-space",
        default="1GB",
        metavar="SIZE",
        help="What all of them may take.  [default: 1GB]",
    ),
    click.option(
        "--diagnosis-limit",
        default="60s",
        metavar="60s",
        help="Time for the experiments of a diagnosis.  [default: 60s]",
    ),
    click.option(
        "--log",
        type=click.Choice(sorted(LOGS)),
        default="text",
        help="A line for each request on stderr.  [default: text]",
    ),
    click.option("--log-prompts", is_flag=True, help="With the texts of prompts and answers."),
)


def _access_options(command: F) -> F:
    """Add the options of who may ask, and how much."""
    for option in reversed(_ACCESS):
        command = option(command)
    return command


@click.command()
@run_options
@memory_option
@click.option(
    "--slots",
    type=whole,
    default=16,
    metavar="N",
    help="How many requests are decoded at once; the others wait.  [default: 16]",
)
@click.option("--name", help="Under which clients ask for the model.  [default: as --model has it]")
@click.option(
    "--host",
    default="127.0.0.1",
    help="Where to listen: this machine alone, unless another one is given.  [default: 127.0.0.1]",
)
@click.option(
    "--port", type=whole, default=8000, metavar="N", help="0 is any free one.  [default: 8000]"
)
@click.option(
    "--replicas",
    type=whole,
    metavar="N",
    help="So many engines, each in a process of its own and on a GPU of its own where there are "
    "GPUs, by Ray Serve.  [default: one engine in this process]",
)
@click.option(
    "--ray-address",
    metavar="HOST:PORT",
    help="The Ray cluster that has the replicas; auto: the one that runs on this machine.  "
    "[default: RAY_ADDRESS, or one that is started and ended here]",
)
@_access_options
def serve(
    slots: int,
    replicas: int | None,
    ray_address: str | None,
    name: str | None,
    host: str,
    port: int,
    api_keys_file: Path | None,
    max_body: str,
    max_waiting: int,
    time_limit: str | None,
    drain: str,
    cors_origins: tuple[str, ...],
    allowed_hosts: tuple[str, ...],
    traces: Path | None,
    keep_traces: int,
    trace_space: str,
    diagnosis_limit: str,
    log: str,
    log_prompts: bool,
    **options: object,
) -> None:
    """Answer OpenAI's clients over HTTP, until Ctrl-C."""
    _check_packages()
    from skipstone.server.access.keys import read_keys
    from skipstone.server.options import ServerOptions

    spec = run_spec(given(options))
    served = ServerOptions(
        name=spec.model if name is None else name,
        host=host,
        port=port,
        keys=read_keys(api_keys_file, os.environ.get("SKIPSTONE_API_KEYS", "")),
        max_body=bytes_of("--max-body", max_body),
        max_waiting=max_waiting,
        time_limit=parse_seconds(time_limit),
        drain=parse_seconds(drain, "--drain"),
        cors_origins=cors_origins,
        allowed_hosts=allowed_hosts,
        log_prompts=log_prompts,
        traces=traces,
        keep_traces=keep_traces,
        trace_space=bytes_of("--trace-space", trace_space),
        diagnosis_limit=parse_seconds(diagnosis_limit, "--diagnosis-limit"),
    )

    _check_replicas(replicas, ray_address)
    _check_traces(traces)
    from skipstone.server.serving import bind, is_loopback

    # A port that is taken is said before a model is loaded.
    with ended_by_sigterm(), bind(served) as bound:
        if not (served.keys or is_loopback(bound)):
            _say_open(host)
        serving = _Serving(spec, slots, served, LOGS[log], bound)
        if replicas is None:
            serving.here()
        else:
            serving.by_replicas(replicas, ray_address)


def _say_open(host: str) -> None:
    note(
        f"whoever reaches {host} may ask, no key is needed; give --api-keys-file, or "
        f"SKIPSTONE_API_KEYS"
    )


def _check_replicas(replicas: int | None, address: str | None) -> None:
    """Refuse what cannot be meant.

    Raises:
        ConfigError: there are none, or none for a cluster.
    """
    if replicas is not None:
        check_some("--replicas", replicas)
    elif address is not None:
        raise ConfigError("--ray-address has no effect without replicas; give --replicas, too")


def _check_traces(folder: Path | None) -> None:
    """Refuse at the start a folder in which no trace could be written; a new one is made.

    Raises:
        OutputError: it is one.
    """
    if folder is None:
        return
    try:
        # Nobody else may read there.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"--traces is {shown(str(folder))}, must be a folder that can be written into or made "
            f"({error.strerror or error}); give another one, or none for one of the server's own"
        ) from None


def _check_packages() -> None:
    """Refuse to go on where a package of the extra is missing.

    Raises:
        ConfigError: it is.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing(str(error.name), "skipstone serve", "serve") from None


@dataclass(frozen=True)
class _Serving:
    """A socket that is bound, and what is to answer there."""

    spec: RunSpec
    slots: int
    options: ServerOptions
    log: Callable[[Account], object]
    bound: socket.socket

    def here(self) -> None:
        """Answer with one engine in this process."""
        from skipstone.server.app import make_app
        from skipstone.server.heap import share_one_arena
        from skipstone.server.serving import serve

        share_one_arena()
        app = make_app(self.spec.engine(slots=self.slots), self.options, self.log)
        serve(app, self.bound, self._ready)

    def by_replicas(self, count: int, address: str | None) -> None:
        """Answer with engines in a Ray cluster; SIGHUP replaces them one after the other."""
        with cluster("--replicas", address=address, extra="replicas"):
            try:
                import ray.serve  # noqa: F401
            except ImportError as error:
                raise missing(str(error.name), "--replicas", "replicas") from None
            from skipstone.server.replicas.deployment import Deployment, deployed
            from skipstone.server.replicas.front import make_front
            from skipstone.server.serving import serve

            make = partial(self.spec.anywhere().engine, slots=self.slots)
            gpus = gpus_for(self.spec.device)
            with self._shared_traces() as options:
                deployment = Deployment(make, options, count, self.slots, gpus)
                with deployed(deployment) as handle:
                    app = make_front(handle, options, self.log)
                    serve(app, self.bound, self._ready, deployment.restart)

    @contextmanager
    def _shared_traces(self) -> Iterator[ServerOptions]:
        """The options with a folder of traces that all replicas know."""
        if self.options.traces is not None:
            yield replace(self.options, traces=self.options.traces.resolve())
            return
        with tempfile.TemporaryDirectory(prefix="skipstone-traces-") as folder:
            yield replace(self.options, traces=Path(folder))

    def _ready(self, address: str) -> None:
        try:
            say_now(f"{self.options.name} at {address}")
            say_now(f"page at {address.removesuffix('v1')}")
        except (ReaderGoneError, StdoutError) as error:
            # Clients are answered, whether or not anybody reads where.
            drop_output()
            if isinstance(error, StdoutError):
                note(f"{self.options.name} at {address}; {error}")
