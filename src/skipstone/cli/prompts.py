"""Where a command gets its prompts from: an argument, token ids, or a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from skipstone.cli.options import parse_ids, read_text
from skipstone.diff.agreement import Question
from skipstone.errors import PromptError

Prompt = str | Sequence[int]


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


def read_questions(path: Path, option: str) -> list[Question]:
    """The prompts of a file: one a line, or ``.jsonl`` with "prompt" and maybe "answer".

    Raises:
        PromptError: the file cannot be read, has no prompts, or a line is no prompt.
    """
    # Other separators, such as U+2028, are part of a prompt.
    lines = read_text(path, option).split("\n")
    numbered = [(i, line) for i, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise PromptError(f"{option} {str(path)!r} has no prompts; write one a line")
    if path.suffix != ".jsonl":
        return [Question(line, line=number) for number, line in numbered]
    return [_question(line, number, f"{path}, line {number}") for number, line in numbered]


def _question(line: str, number: int, where: str) -> Question:
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
    return Question(prompt, None if answer is None else str(answer), number)
