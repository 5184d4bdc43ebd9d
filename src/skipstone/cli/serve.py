"""``skipstone serve``: the engine over HTTP, for OpenAI's clients."""

from __future__ import annotations

import click

from skipstone.cli.numbers import whole
from skipstone.cli.options import given, memory_option, run_options, run_spec
from skipstone.cli.terminal import say_now
from skipstone.extras import missing


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
def serve(slots: int, name: str | None, host: str, port: int, **options: object) -> None:
    """Answer OpenAI's clients over HTTP, until Ctrl-C."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing(str(error.name), "skipstone serve", "serve") from None
    from skipstone.server.options import ServerOptions

    spec = run_spec(given(options))
    served = ServerOptions(name=spec.model if name is None else name, host=host, port=port)

    from skipstone.server.app import make_app
    from skipstone.server.serving import bind, serve

    # A port that is taken is said before a model is loaded.
    with bind(served) as bound:
        engine = spec.engine(slots=slots)
        serve(
            make_app(engine, served), bound, lambda address: say_now(f"{served.name} at {address}")
        )
