"""How answers are printed: the text on stdout; what it took, and what did nothing, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipstone.cli.escape import readable, shortened
from skipstone.cli.terminal import aside, note, say, say_json, say_text
from skipstone.errors import NotFiniteError

if TYPE_CHECKING:
    from skipstone.engine import Result
    from skipstone.engine.engine import Prompt


@dataclass(frozen=True)
class Printer:
    """Prints answers as a command was asked to."""

    prompts: Sequence[Prompt]
    labelled: bool
    """Say which prompt each answers, and indent it: several came from one file."""
    ids: bool
    """Show the answers' token ids, too."""
    as_json: bool
    """Print one JSON object a prompt instead, which names the prompt that it answers."""
    trace: str = ""
    """Where the run was written down, for JSON."""

    def answers(self, decode: Callable[[], Sequence[Result]]) -> None:
        """Print what ``decode`` gives.

        Raises:
            NotFiniteError: as ``decode`` does, after the answers that were finished are printed.
        """
        try:
            results = decode()
        except NotFiniteError as error:
            self._print(error.finished)
            raise
        self._print(dict(enumerate(results)))

    def as_they_come(self, results: Iterable[Result]) -> None:
        """Print results in the order of their prompts, each as soon as it is there."""
        for i, result in enumerate(results):
            self._print({i: result})

    def _print(self, results: Mapping[int, Result]) -> None:
        """Print results, which are known by the index of their prompt."""
        for i, result in results.items():
            if self.as_json:
                self._print_json(i, result)
            else:
                self._print_text(i, result)

    def _print_json(self, i: int, result: Result) -> None:
        prompt = self.prompts[i]
        asked = {"number": i + 1, "prompt": prompt if isinstance(prompt, str) else list(prompt)}
        say_json(asked | result.as_json() | ({"trace": self.trace} if self.trace else {}))

    def _print_text(self, i: int, result: Result) -> None:
        if self.labelled:
            say((f"[{i + 1}] ", "label"), (shortened(_shown(self.prompts[i])), "head"))
            for line in readable(result.text).split("\n"):
                say("    ", line.replace("\t", "    "))
        else:
            say_text(result.text)
        if self.ids:
            say(("ids ", "label"), ",".join(map(str, result.answer)))
        _print_beside(result, f"{i + 1}: " if self.labelled else "")


def _shown(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else f"ids {','.join(map(str, prompt))}"


def _print_beside(result: Result, which: str) -> None:
    aside((f"[{which}{result.stats}]", "label"))
    for text in result.notes:
        note(f"{which}{text}")
