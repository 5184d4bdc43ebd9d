"""How answers are printed: the text on stdout; what it took, and what did nothing, on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skipstone.cli.escape import readable, shortened
from skipstone.cli.terminal import aside, note, say, say_json, say_text

if TYPE_CHECKING:
    from skipstone.engine import Result
    from skipstone.engine.engine import Prompt


def print_answers(
    prompts: Sequence[Prompt],
    results: Sequence[Result],
    *,
    labelled: bool,
    ids: bool,
) -> None:
    """Print answers for a person.

    Args:
        prompts: in the order of the results.
        results: one a prompt.
        labelled: say which prompt each answers, and indent it: several came from one file.
        ids: show the answer's token ids, too.
    """
    for number, (prompt, result) in enumerate(zip(prompts, results, strict=True), start=1):
        if labelled:
            say((f"[{number}] ", "label"), (shortened(_shown(prompt)), "head"))
            for line in readable(result.text).split("\n"):
                say("    ", line.replace("\t", "    "))
        else:
            say_text(result.text)
        if ids:
            say(("ids ", "label"), ",".join(map(str, result.answer)))
        _print_beside(result, f"{number}: " if labelled else "")


def print_answers_json(
    prompts: Sequence[Prompt], results: Sequence[Result], **more: object
) -> None:
    """Print one JSON object a prompt, which names the prompt that it answers."""
    for number, (prompt, result) in enumerate(zip(prompts, results, strict=True), start=1):
        asked = {"number": number, "prompt": prompt if isinstance(prompt, str) else list(prompt)}
        say_json(asked | result.as_json() | more)


def _shown(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else f"ids {','.join(map(str, prompt))}"


def _print_beside(result: Result, which: str) -> None:
    aside((f"[{which}{result.stats}]", "label"))
    for text in result.notes:
        note(f"{which}{text}")
