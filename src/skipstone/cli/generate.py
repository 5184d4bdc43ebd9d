"""``skipstone generate``: decode one prompt, or a file of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console

from skipstone.cli.options import given, parse_ids, read_text, run_options, run_spec
from skipstone.cli.watch import watching
from skipstone.engine import Engine, Result
from skipstone.engine.engine import Prompt
from skipstone.errors import PromptError


@click.command()
@click.argument("prompt", required=False)
@run_options
@click.option(
    "--batch-file",
    type=click.Path(path_type=Path),
    help='Prompts to decode together: one a line, or .jsonl with {"prompt": ...}.',
)
@click.option("--prompt-ids", metavar="5,17,3", help="Token ids instead of text.")
@click.option("--stream", is_flag=True, help="Show the canvas filling, if this is a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a prompt.")
def generate(
    prompt: str | None,
    batch_file: Path | None,
    prompt_ids: str | None,
    *,
    stream: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Decode PROMPT and print the answer."""
    spec = run_spec(given(options))
    prompts = _prompts(prompt, prompt_ids, batch_file)
    engine = Engine(spec.load(), spec.settings)
    with watching(stream=stream, console=Console(stderr=True)) as observer:
        results = engine.generate_batch(prompts, observer=observer)
    for result in results:
        if as_json:
            print(json.dumps(result.as_json(), ensure_ascii=False))
        else:
            _print(result)


def _prompts(prompt: str | None, prompt_ids: str | None, batch_file: Path | None) -> list[Prompt]:
    """The one source of prompts that was given."""
    sources = {"PROMPT": prompt, "--prompt-ids": prompt_ids, "--batch-file": batch_file}
    named = [name for name, value in sources.items() if value is not None]
    if len(named) != 1:
        found = " and ".join(named) if named else "none"
        raise PromptError(
            f"give exactly one of PROMPT, --prompt-ids and --batch-file; found {found}"
        )
    if prompt is not None:
        return [prompt]
    if prompt_ids is not None:
        return [parse_ids(prompt_ids)]
    assert batch_file is not None
    return _read_batch(batch_file)


def _read_batch(path: Path) -> list[Prompt]:
    lines = read_text(path, "--batch-file").splitlines()
    numbered = [(i, line) for i, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise PromptError(f"--batch-file {str(path)!r} has no prompts; write one a line")
    if path.suffix != ".jsonl":
        return [line for _, line in numbered]
    prompts = list[Prompt]()
    for number, line in numbered:
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise PromptError(f"{path}, line {number} is not JSON ({error.msg})") from None
        text = value.get("prompt") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise PromptError(f'{path}, line {number} has no text under "prompt"')
        prompts.append(text)
    return prompts


def _print(result: Result) -> None:
    """The answer on stdout; what it took, and what did nothing, on stderr."""
    print(result.text)
    stats = result.stats
    print(
        f"[{stats.generated} tokens, {stats.num_forwards} forwards, {stats.seconds:.2f} s, "
        f"{stats.tokens_per_second:.1f} tokens/s, {stats.skip_share:.1%} of row-layers skipped]",
        file=sys.stderr,
    )
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
