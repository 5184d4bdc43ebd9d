"""``skipstone generate``: decode one prompt, or a file of them."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from skipstone.cli.answers import print_answer
from skipstone.cli.options import given, run_options, run_spec
from skipstone.cli.prompts import batch_size_option, check_batch_size, read_prompts


@click.command()
@click.argument("prompt", required=False)
@run_options
@click.option(
    "--batch-file",
    type=click.Path(path_type=Path),
    help='Prompts to decode together: one a line, or .jsonl with {"prompt": ...}.',
)
@batch_size_option
@click.option("--prompt-ids", metavar="5,17,3", help="Token ids instead of text.")
@click.option("--stream", is_flag=True, help="Show the canvas filling, if this is a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a prompt.")
def generate(
    prompt: str | None,
    batch_file: Path | None,
    batch_size: int | None,
    prompt_ids: str | None,
    *,
    stream: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Decode PROMPT and print the answer."""
    spec = run_spec(given(options))
    prompts = read_prompts(prompt, prompt_ids, batch_file)
    check_batch_size(batch_size, batch_file)
    from skipstone.cli.watch import watching
    from skipstone.engine import Engine

    engine = Engine(spec.load(), spec.settings)
    with watching(stream=stream, console=Console(stderr=True)) as observer:
        results = engine.generate_batch(prompts, batch_size=batch_size, observer=observer)
    for result in results:
        if as_json:
            print(json.dumps(result.as_json(), ensure_ascii=False))
        else:
            print_answer(result)
