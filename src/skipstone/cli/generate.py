"""``skipstone generate``: decode one prompt, or a file of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skipstone.cli.answers import Printer
from skipstone.cli.options import RunSpec, given, memory_option, run_options, run_spec
from skipstone.cli.prompts import Prompt, batch_places, batch_size_option, read_prompts
from skipstone.cli.terminal import aside, drawing_console
from skipstone.cli.tokens import ids_option
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.engine import Result


_AT_ONCE = 16
"""Prompts that a worker decodes together, where nothing is said."""


@click.command()
@click.argument("prompt", required=False)
@run_options
@click.option(
    "--batch-file",
    type=click.Path(path_type=Path),
    help='Prompts to decode together: one a line, or JSON with {"prompt": ...}; - reads stdin.',
)
@batch_size_option
@memory_option
@click.option("--prompt-ids", metavar="5,17,3", help="Token ids instead of text.")
@click.option(
    "--executor",
    type=click.Choice(["serial", "ray"]),
    default="serial",
    help="Who decodes the prompts of the file: this process, or a Ray cluster.  [default: serial]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write the answers to the file there, as --json prints them; one that is there already "
    "is gone on with.",
)
@click.option("--stream", is_flag=True, help="Show the canvas filling, if this is a terminal.")
@ids_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a prompt.")
def generate(
    prompt: str | None,
    batch_file: Path | None,
    batch_size: int | None,
    prompt_ids: str | None,
    executor: str,
    output: Path | None,
    *,
    stream: bool,
    ids: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Decode PROMPT and print the answer."""
    spec = run_spec(given(options))
    prompts = read_prompts(prompt, prompt_ids, batch_file)
    places = batch_places(batch_size, batch_file, len(prompts))
    printer = Printer(prompts, batch_file is not None, ids, as_json)
    if executor == "ray" or output is not None:
        _check_offline(batch_file, stream=stream)
        _answer_offline(spec, prompts, places or _AT_ONCE, executor, output, printer)
        return
    from skipstone.cli.watch import watching

    engine = spec.engine()

    def decode() -> list[Result]:
        with watching(stream=stream, console=drawing_console()) as observer:
            return engine.generate_batch(prompts, batch_size=places, observer=observer)

    printer.answers(decode)


def _check_offline(batch_file: Path | None, *, stream: bool) -> None:
    """Refuse what is for single prompts.

    Raises:
        ConfigError: there is no file of prompts, or a canvas is to be shown.
    """
    if batch_file is None:
        raise ConfigError("--executor ray and --output are for --batch-file; leave them out")
    if stream:
        raise ConfigError("--stream shows no canvas with --executor ray or --output; leave it out")


def _answer_offline(
    spec: RunSpec,
    prompts: Sequence[Prompt],
    size: int,
    executor: str,
    output: Path | None,
    printer: Printer,
) -> None:
    """Answer prompts in their order; what the output file has is not asked again."""
    from skipstone.offline.answers import AnswerFile
    from skipstone.offline.units import answer_by_ray, answer_here
    from skipstone.outputs import one_writer

    with nullcontext() if output is None else one_writer(output):
        file = None if output is None else AnswerFile.open(output, spec.model, prompts)
        first = 0 if file is None else file.done
        if executor == "ray":
            results = answer_by_ray(spec.anywhere().engine, prompts, first, size, spec.device)
        else:
            results = answer_here(spec.engine, prompts, first, size)
        with closing(results):
            if file is None:
                printer.as_they_come(results)
                return
            for result in results:
                file.append(result)
    said = f", of which {first} were there" if first else ""
    aside(f"{len(prompts)} answers in {output}{said}")
