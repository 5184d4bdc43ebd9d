"""Where a command gets its prompts from: an argument, token ids, or a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import click

from skipstone.cli.idle import say_idle
from skipstone.cli.options import parse_ids, read_text
from skipstone.diff.agreement import Question
from skipstone.diff.judges import JUDGES, check_answer, find_judge
from skipstone.errors import ConfigError, PromptError, nearest

Prompt = str | Sequence[int]

judge_option = click.option(
    "--judge",
    "rule",
    default="contains",
    metavar="RULE",
    help="When an answer is right: contains, exact, number, or a function as package.module:name. "
    "A line of the file may name its own.  [default: contains]",
)

batch_size_option = click.option(
    "--batch-size",
    type=int,
    metavar="N",
    help="How many prompts of the file are decoded at once; the others wait for a place.  "
    "[default: all]",
)


def check_batch_size(batch_size: int | None, batch_file: Path | None) -> None:
    """Refuse a number of places that is none; say if nobody waits for them.

    Raises:
        ConfigError: it is below 1.
    """
    if batch_size is None:
        return
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}, must be at least 1")
    if batch_file is None:
        say_idle(
            f"--batch-size {batch_size} has no effect on a single prompt; several come from "
            f"--batch-file"
        )


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
    if prompt is not None:
        return [prompt]
    if prompt_ids is not None:
        return [parse_ids(prompt_ids)]
    assert batch_file is not None
    return [question.prompt for question in read_questions(batch_file, "--batch-file")]


def read_questions(path: Path, option: str, judge: str = "contains") -> list[Question]:
    """The prompts of a file: one a line, or ``.jsonl`` with "prompt" and maybe "answer".

    Args:
        path: the file, or ``pebble`` for held-out prompts of the embedded model's world.
        option: that named it, for messages.
        judge: of answers whose line names none; the only function that a line may name.

    Raises:
        PromptError: the file cannot be read, has no prompts, or a line is no prompt.
        ConfigError: the judge is unknown.
    """
    find_judge(judge)
    if str(path) == "pebble":
        path = Path(str(files("skipstone") / "data" / "questions" / "pebble.jsonl"))
    # Other separators, such as U+2028, are part of a prompt.
    lines = read_text(path, option).split("\n")
    numbered = [(i, line) for i, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise PromptError(f"{option} {str(path)!r} has no prompts; write one a line")
    if path.suffix != ".jsonl":
        return [Question(line, line=number) for number, line in numbered]
    return [_question(line, number, f"{path}, line {number}", judge) for number, line in numbered]


def _question(line: str, number: int, where: str, judge: str) -> Question:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deeply")
        raise PromptError(f"{where} is not JSON ({reason})") from None
    prompt = value.get("prompt") if isinstance(value, dict) else None
    if not isinstance(prompt, str):
        raise PromptError(f'{where} has no text under "prompt"')
    answer = value.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
        raise PromptError(f'{where} has {answer!r} under "answer", must be text or a number')
    if answer is not None and not str(answer).strip():
        raise PromptError(f'{where} has an empty "answer"; leave it out if it is not known')
    if answer is None:
        return Question(prompt, line=number)
    question = Question(
        prompt, str(answer), number, _judge(value.get("judge", judge), where, judge)
    )
    reason = check_answer(question.judge, str(answer))
    if reason is not None:
        raise PromptError(f"{where}: {reason}")
    return question


def _judge(name: object, where: str, allowed: str) -> str:
    """The judge that a line names. A file of prompts must not start code that nobody asked for."""
    if not isinstance(name, str) or (":" not in name and name not in JUDGES):
        known = nearest(str(name), JUDGES)
        raise PromptError(f'{where} has {name!r} under "judge", which is unknown; {known}')
    if ":" in name and name != allowed:
        raise PromptError(
            f"{where} names the judge {name!r}, which is code; allow it with --judge {name}"
        )
    return name
