"""Where a command gets its prompts from: an argument, token ids, or a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import click

from skipstone.cli.idle import say_idle
from skipstone.cli.numbers import check_some, whole
from skipstone.cli.options import parse_ids
from skipstone.cli.prompt_files import STDIN, parse_questions, read_text
from skipstone.diff.agreement import Question
from skipstone.diff.judges import find_judge
from skipstone.errors import ConfigError, PromptError
from skipstone.quoting import shown

Prompt = str | Sequence[int]

judge_option = click.option(
    "--judge",
    "rule",
    default="contains",
    metavar="RULE",
    help="When an answer is right: contains, exact, number, any, reordered, or a function as "
    "package.module:name. A line of the file may name its own.  [default: contains]",
)

executor_option = click.option(
    "--executor",
    "who",
    default="serial",
    metavar="WHO",
    help="serial, local:N (processes) or ray.  [default: serial]",
)


def _some(_: click.Context, parameter: click.Parameter, count: int) -> int:
    check_some(parameter.opts[0], count)
    return count


time_every_option = click.option(
    "--time-every",
    type=whole,
    callback=_some,
    default=16,
    metavar="N",
    help="One prompt of N, the first among them, is decoded one setting after the other and timed; "
    "all others together, which is faster.  [default: 16; 1 times all]",
)

batch_size_option = click.option(
    "batch_size",
    "--slots",
    "--batch-size",
    type=whole,
    metavar="N",
    help="How many prompts of the file are decoded at once; the others wait for a slot.  "
    "[default: all]",
)


def batch_places(batch_size: int | None, batch_file: Path | None, count: int) -> int | None:
    """How many places a batch has; says if there are more than anybody takes.

    Args:
        batch_size: as it was given.
        batch_file: where the prompts are from; None if there is one alone.
        count: how many prompts there are.

    Raises:
        ConfigError: it is below 1.
    """
    if batch_size is None:
        return None
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {shown(batch_size)}, must be at least 1")
    if batch_file is None:
        say_idle(
            f"--batch-size {shown(batch_size)} has no effect on a single prompt; several come from "
            f"--batch-file"
        )
    elif batch_size > count:
        say_idle(
            f"--batch-size {shown(batch_size)} is more than the {count} prompts of {batch_file}: "
            f"all of them are decoded at once"
        )
    return min(batch_size, count)


def one_prompt(prompt: str | None, prompt_ids: str | None) -> Prompt:
    """The prompt of a command that takes one: an argument, ``-`` for standard input, or ids.

    Raises:
        PromptError: none or both are given, or what is given cannot be read.
    """
    if prompt_ids is not None and prompt is None:
        return parse_ids(prompt_ids)
    if prompt is None or prompt_ids is not None:
        raise PromptError("give exactly one of PROMPT and --prompt-ids")
    if prompt != str(STDIN):
        # $(cat file) brings the file's mark along.
        return _typed(prompt.removeprefix("\ufeff"))
    # The line's end is the shell's.
    text = read_text(STDIN, "PROMPT").removesuffix("\n")
    if not text.strip():
        raise PromptError("standard input is empty; give at least one word")
    return text


def _typed(argument: str) -> str:
    """An argument as its user typed it: where the locale is not UTF-8, Python cannot tell."""
    try:
        return os.fsencode(argument).decode()
    # It is no UTF-8, or was not typed: the tokenizer refuses it.
    except UnicodeError:
        return argument


def read_prompts(
    prompt: str | None, prompt_ids: str | None, batch_file: Path | None
) -> list[Prompt]:
    """The prompts of the one source that was given.

    Raises:
        PromptError: none or several were given, or what was given cannot be read.
    """
    sources = {"PROMPT": prompt, "--prompt-ids": prompt_ids, "--batch-file": batch_file}
    named = [name for name, value in sources.items() if value is not None]
    if len(named) != 1:
        found = " and ".join(named) if named else "none"
        raise PromptError(
            f"give exactly one of PROMPT, --prompt-ids and --batch-file; found {found}"
        )
    if batch_file is None:
        return [one_prompt(prompt, prompt_ids)]
    questions = read_questions(batch_file, "--batch-file")
    if any(question.answer is not None for question in questions):
        say_idle(f"answers in {batch_file} have no effect here; audit and sweep judge by them")
    return [question.prompt for question in questions]


def read_questions(path: Path, option: str, judge: str = "contains") -> list[Question]:
    """The prompts of a file: one a line, or JSON with "prompt" and maybe "answer" and "judge".

    Args:
        path: the file, ``-`` for standard input, or ``pebble`` for held-out prompts of the embedded
            model's world.
        option: that named it, for messages.
        judge: of answers whose line names none; the only function that a line may name.

    Raises:
        PromptError: the file cannot be read, has no prompts, or a line is no prompt.
        ConfigError: the judge is unknown.
    """
    find_judge(judge)
    if str(path) == "pebble":
        own = Path(str(files("skipstone") / "data" / "questions" / "pebble.jsonl"))
        return parse_questions(own, read_text(own, option), option, judge, lambda _: None)
    return parse_questions(path, read_text(path, option), option, judge, say_idle)
