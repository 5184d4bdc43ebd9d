"""Files of prompts: what their bytes are, how their text is laid out, and what each line asks.

What a file is, its content says: a JSON list, JSON lines, or plain text with one prompt a line. A
name that ends in .jsonl, .ndjson or .json promises JSON, and is held to it.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EBADF
from pathlib import Path
from typing import IO, cast

from skipstone import strict_json
from skipstone.diff.agreement import Question
from skipstone.diff.judges import JUDGES, check_answer
from skipstone.errors import PromptError, nearest
from skipstone.quoting import cut, shown

STDIN = Path("-")
KEYS = ("prompt", "answer", "judge", "family")

_MOST_BYTES = 64 << 20
_MOST_LINE = 4_000_000
_MOST_PROMPTS = 1_000_000
_LINES = (".jsonl", ".ndjson")
_NO_TEXT = (".csv", ".tsv", ".yaml", ".yml", ".parquet", ".xlsx", ".gz", ".zip", ".arrow")

# Nobody begins a prompt like this.
_MEANT_AS_JSON = re.compile(r"""\s*\[?\s*\{\s*["']prompt["']\s*:""")
# Marks of the encoding (BOM) where a line begins.
_MARKS = re.compile("^\ufeff+", re.MULTILINE)

Tell = Callable[[str], None]


def read_text(path: Path, what: str) -> str:
    """The text of a file, or of standard input; its lines end as on Unix.

    UTF-8 with or without a mark (BOM), or UTF-16 with one, as Windows writes it.

    Raises:
        PromptError: it is missing, unreadable, too large or no text.
    """
    name = _name(path, what)
    content = _read(path, name)
    if len(content) > _MOST_BYTES:
        raise PromptError(f"{name} has more than {_MOST_BYTES >> 20} MB; split it")
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise PromptError(f"{name} is not UTF-8 text; convert it first") from None
    if "\0" in text:
        raise PromptError(f"{name} holds NUL characters, as other encodings do; save it as UTF-8")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # Files that were joined have a mark where the next one began.
    return _MARKS.sub("", text)


def parse_questions(path: Path, text: str, what: str, judge: str, tell: Tell) -> list[Question]:
    """The prompts in a text.

    Args:
        path: where it was read from.
        text: the whole of it.
        what: the option that named it.
        judge: of answers whose line names none; the only function that a line may name.
        tell: is told what has no effect.

    Raises:
        PromptError: it is in no known format, has no prompts, or one of them cannot be read.
    """
    name, suffix = _name(path, what), path.suffix.lower()
    if suffix in _NO_TEXT:
        raise PromptError(
            f"{name} is a {suffix} file; write one prompt a line (.txt), or JSON lines (.jsonl)"
        )
    if not text.strip():
        raise PromptError(f"{name} has no prompts; write one a line")
    if text.count("\n") > _MOST_PROMPTS:
        raise PromptError(f"{name} has more than {_MOST_PROMPTS} lines; split it")
    where = "standard input" if path == STDIN else str(path)
    found: Iterator[tuple[int, object]]
    if suffix == ".json" or (suffix not in _LINES and _is_json(text)):
        found = _json_list(text, where)
        place = "entry"
    elif suffix in _LINES or _is_json(_lines(text, where)[0][1]):
        found = ((number, _parsed(line, where, number)) for number, line in _lines(text, where))
        place = "line"
    else:
        return [_plain(line, number, where) for number, line in _lines(text, where)]
    unknown = dict[str, None]()
    questions = [
        _question(value, number, f"{where}, {place} {number}", judge, unknown)
        for number, value in found
    ]
    if not questions:
        raise PromptError(f"{name} has no prompts; write a list of them")
    if unknown:
        keys = cut(", ".join(map(repr, unknown)), 200)
        tell(f"{where} has keys that nothing reads: {keys}; known: {', '.join(KEYS)}")
    return questions


def _name(path: Path, what: str) -> str:
    return f"{what} -" if path == STDIN else f"{what} {str(path)!r}"


def _read(path: Path, name: str) -> bytes:
    """At most one byte more than is allowed; a pipe or a device has no size to ask for."""
    try:
        with _opened(path) as file:
            return file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise PromptError(f"{name} cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        raise PromptError(f"{name} is no path ({error}); check it") from None


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path == STDIN:
        if sys.stdin is None:
            raise OSError(EBADF, "it is closed")
        yield sys.stdin.buffer
        return
    with path.open("rb") as file:
        yield file


def _lines(text: str, where: str) -> list[tuple[int, str]]:
    """Lines that are not empty, with their numbers from 1."""
    # Other separators, such as U+2028, are part of a prompt.
    numbered = [(i, line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
    for number, line in numbered:
        if len(line) > _MOST_LINE:
            raise PromptError(
                f"{where}, line {number} has {len(line)} characters, more than {_MOST_LINE}; "
                f"shorten it"
            )
    return numbered


def _is_json(text: str) -> bool:
    """Whether text of a file that promises nothing is an object, or a list of texts or objects."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    entries = value if isinstance(value, list) else [value]
    return bool(entries) and all(isinstance(entry, (str, dict)) for entry in entries)


def _plain(line: str, number: int, where: str) -> Question:
    """A line that is a prompt as it stands."""
    whole = '"prompt"' in line and _is_json(line)
    if whole or _MEANT_AS_JSON.match(line):
        what = "JSON among lines of plain text" if whole else "nearly JSON, but no object"
        raise PromptError(
            f"{where}, line {number} is {what}; write all lines as JSON and name the file .jsonl"
        )
    return Question(line, line=number)


def _json_list(text: str, where: str) -> Iterator[tuple[int, object]]:
    """The entries of one list, or one object; a text alone is a prompt."""
    value = _parsed(text, where)
    entries = cast("list[object]", value) if isinstance(value, list) else [value]
    for number, entry in enumerate(entries, start=1):
        yield number, {"prompt": entry} if isinstance(entry, str) else entry


def _parsed(text: str, where: str, number: int | None = None) -> object:
    place = where if number is None else f"{where}, line {number}"
    try:
        value = strict_json.parse(text, _no_number)
        strict_json.check_characters(text, value)
        return value
    except strict_json.DuplicateKeyError as error:
        raise PromptError(f"{place}: {error}; give it once") from None
    except UnicodeEncodeError:
        raise PromptError(
            f"{place} is not valid Unicode text: an escape names half a character (a lone "
            f"surrogate); write the character itself, as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        hint = "; name a file with one object a line .jsonl" if number is None else ""
        reason = error.msg if number is not None else f"{error.msg}, line {error.lineno}"
        raise PromptError(f"{place} is not JSON ({reason}){hint}") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise PromptError(f"{place} is not JSON ({cut(reason)})") from None


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


def _question(
    value: object, number: int, where: str, judge: str, unknown: dict[str, None]
) -> Question:
    """One prompt, plain or with what is known about it."""
    entry = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    _check_keys(entry, where, unknown)
    prompt = entry.get("prompt")
    if not isinstance(prompt, str):
        raise PromptError(f'{where} has no text under "prompt"{_what_else(value)}')
    if not prompt.strip():
        raise PromptError(f'{where} has an empty "prompt"; give at least one word')
    answer = entry.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
        raise PromptError(f'{where} has {shown(answer)} under "answer", must be text or a number')
    if isinstance(answer, float) and not math.isfinite(answer):
        raise PromptError(
            f'{where} has a number under "answer" that is too large; write it as text'
        )
    if answer is not None and not str(answer).strip():
        raise PromptError(f'{where} has an empty "answer"; leave it out if it is not known')
    family = entry.get("family", "")
    if not isinstance(family, str):
        raise PromptError(f'{where} has {shown(family)} under "family", must be text')
    if answer is None:
        return Question(prompt, line=number, family=family)
    rule = _judge(entry.get("judge", judge), where, judge)
    reason = check_answer(rule, str(answer))
    if reason is not None:
        raise PromptError(f"{where}: {reason}")
    return Question(prompt, str(answer), number, rule, family)


def _what_else(value: object) -> str:
    """What an entry holds instead of a prompt, and what to do about it."""
    if isinstance(value, str):
        return '; it is a text alone: write {"prompt": ...}, or a list of texts in a .json file'
    if isinstance(value, list):
        return '; it is a list: write one {"prompt": ...} a line, or name the file .json'
    if not isinstance(value, dict):
        return f", it is {shown(value)}"
    if "messages" in value or isinstance(value.get("prompt"), list) or "role" in value:
        return "; it holds messages, which a file cannot give: Engine.generate in Python takes them"
    keys = ", ".join(repr(key[:40]) for key in list(value)[:5])
    return f"; it has {keys or 'no keys'}"


def _check_keys(entry: dict[str, object], where: str, unknown: dict[str, None]) -> None:
    """Refuse a key that is nearly one that is read, and collect those that mean something else."""
    for key in entry:
        if key in KEYS:
            continue
        hint = nearest(key, KEYS)
        if hint.startswith("did you mean"):
            raise PromptError(f"{where} has the key {shown(key)}, which is unknown; {hint}")
        unknown[key] = None


def _judge(name: object, where: str, allowed: str) -> str:
    """The judge that a line names. A file of prompts must not start code that nobody asked for."""
    if not isinstance(name, str) or (":" not in name and name not in JUDGES):
        known = nearest(str(name), JUDGES)
        raise PromptError(f'{where} has {shown(name)} under "judge", which is unknown; {known}')
    if ":" in name and name != allowed:
        raise PromptError(
            f"{where} names the judge {shown(name)}, which is code; allow it with --judge "
            f"{cut(name)}"
        )
    return name
