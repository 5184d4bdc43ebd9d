"""``skipstone generate``: decode one prompt, or a file of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from skipstone.cli.answers import Printer
from skipstone.cli.options import given, memory_option, run_options, run_spec
from skipstone.cli.prompts import batch_places, batch_size_option, read_prompts
from skipstone.cli.terminal import drawing_console
from skipstone.cli.tokens import ids_option

if TYPE_CHECKING:
    from skipstone.engine import Result


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
@click.option("--stream", is_flag=True, help="Show the canvas filling, if this is a terminal.")
@ids_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a prompt.")
def generate(
    prompt: str | None,
    batch_file: Path | None,
    batch_size: int | None,
    prompt_ids: str | None,
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
    from skipstone.cli.watch import watching

    engine = spec.engine()

    def decode() -> list[Result]:
        with watching(stream=stream, console=drawing_console()) as observer:
            return engine.generate_batch(prompts, batch_size=places, observer=observer)

    Printer(prompts, batch_file is not None, ids, as_json).answers(decode)
