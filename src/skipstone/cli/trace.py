"""``skipstone trace``: decode, and write down every step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from skipstone.cli.answers import Printer
from skipstone.cli.idle import say_idle
from skipstone.cli.numbers import size
from skipstone.cli.options import given, memory_option, run_options, run_spec
from skipstone.cli.prompts import batch_places, batch_size_option, read_prompts
from skipstone.cli.terminal import aside, drawing_console, note
from skipstone.cli.tokens import ids_option
from skipstone.errors import ConfigError
from skipstone.quoting import shown
from skipstone.record import StoredTrace, TraceWriter, open_trace
from skipstone.record.summary import trace_bytes

if TYPE_CHECKING:
    from skipstone.engine import Result
    from skipstone.engine.observe import Observer
    from skipstone.tracing.record.recorder import Level, Window


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The new folder of the trace.",
)
@click.option(
    "--level",
    metavar="LEVEL",
    help="decisions, sketches (and a sketch of every state), window or full (and every state, "
    "key, value and logit, of the window or of all steps).  [default: decisions, or window if "
    "--window is given]",
)
@click.option(
    "--window",
    metavar="BLOCK.STEP[-BLOCK.STEP]",
    help="First and last step whose tensors are kept.",
)
@run_options
@click.option(
    "--batch-file",
    type=click.Path(path_type=Path),
    help='Prompts to decode together: one a line, or JSON with {"prompt": ...}; - reads stdin.',
)
@batch_size_option
@memory_option
@click.option("--prompt-ids", metavar="5,17,3", help="Token ids instead of text.")
@ids_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a prompt.")
def trace(
    prompt: str | None,
    output: Path,
    level: str | None,
    window: str | None,
    batch_file: Path | None,
    batch_size: int | None,
    prompt_ids: str | None,
    *,
    ids: bool,
    as_json: bool,
    **options: object,
) -> None:
    """Decode PROMPT, print the answer, and write a trace of the run.

    The answer is the same as that of generate, token by token. A trace that is stopped keeps
    every finished step; one that is killed may lack the latest.
    """
    spec = run_spec(given(options))
    prompts = read_prompts(prompt, prompt_ids, batch_file)
    places = batch_places(batch_size, batch_file, len(prompts))
    kept, span = _what_to_keep(level, window)
    from skipstone.cli.watch import watching
    from skipstone.engine.observe import Observers
    from skipstone.tracing import Recorder

    def decode() -> list[Result]:
        with TraceWriter(output) as sink:
            engine = spec.engine()
            recorder = Recorder(kept, sink=sink, window=span)
            with watching(stream=False, console=drawing_console()) as bar:
                members: tuple[Observer, ...] = (recorder,) if bar is None else (recorder, bar)
                observer = Observers(members)
                return engine.generate_batch(prompts, batch_size=places, observer=observer)

    Printer(prompts, batch_file is not None, ids, as_json, str(output)).answers(decode)
    with open_trace(output) as written:
        _report(written, window if kept == "window" else None)


def _report(written: StoredTrace, window: str | None) -> None:
    """Where the trace is, and whether the window caught nothing."""
    aside((f"[trace: {written.path}, {size(trace_bytes(written))}]", "label"))
    samples = range(len(written.headers))
    if window is not None and not any(written.keys(sample) for sample in samples):
        note(
            f"no step lies in the window {window}, so that no tensor was kept; 'skipstone show "
            f"{written.path} --steps' lists the steps"
        )


def _what_to_keep(level: str | None, window: str | None) -> tuple[Level, Window | None]:
    """Level and window, which belong together.

    Raises:
        ConfigError: the level asks for a window that is not given.
    """
    if window is None:
        if level == "window":
            raise ConfigError("--level window needs --window, for example --window 1.0-1.3")
        return cast("Level", level or "decisions"), None
    if level not in (None, "window"):
        parse_window(window)
        say_idle(f"--window {window} has no effect at --level {level}; --level window uses it")
        return cast("Level", level), None
    return "window", parse_window(window)


def parse_window(text: str) -> Window:
    """Parse ``1.2``, ``1.2-1.5`` or ``b1.s2-b1.s5``: block and step of the first and last step.

    Raises:
        ConfigError: it is none, or it ends before it begins.
    """
    found = re.fullmatch(r"b?(\d{1,9})\.s?(\d{1,9})(?:-b?(\d{1,9})\.s?(\d{1,9}))?", text, re.ASCII)
    if found is None:
        raise ConfigError(
            f"--window is {shown(text)}, must be BLOCK.STEP or BLOCK.STEP-BLOCK.STEP, like 1.2-1.5"
        )
    first = (int(found[1]), int(found[2]))
    last = first if found[3] is None else (int(found[3]), int(found[4]))
    if last < first:
        raise ConfigError(f"--window {text} ends before it begins; write the earlier step first")
    return first, last
