"""Files of prompts and of questions: other encodings, broken lines, objects that are no prompts."""

from __future__ import annotations

import json
from pathlib import Path

from skipstone.cli.prompts import read_questions
from tests.fuzz.case import Kind, Outcome, Scene, call, command
from tests.fuzz.mutate import broken_bytes, broken_json, json_bytes
from tests.fuzz.sound import LENGTHS

_NAMES = ("p.txt", "p.jsonl", "p.json", "p.ndjson", "p.JSONL", "p")


def _broken_file(scene: Scene) -> Path:
    """Prompts with one line or a few bytes changed, under some name."""
    random = scene.random
    source = random.choice(("prompts.txt", "questions.jsonl"))
    content = (scene.sound / source).read_bytes()
    if source == "questions.jsonl" and random.random() < 0.6:
        lines = [json.loads(line) for line in content.splitlines()]
        at = random.randrange(len(lines))
        broken = [
            json_bytes(broken_json(v, random) if i == at else v, random)
            for i, v in enumerate(lines)
        ]
        content = b"\n".join(broken)
    else:
        content = broken_bytes(content, random)
    path = scene.here / random.choice((Path(source).name, *_NAMES))
    path.write_bytes(content)
    return path


def _read(scene: Scene) -> Outcome:
    path = _broken_file(scene)
    judge = scene.random.choice(("contains", "exact", "number"))
    return call(lambda: read_questions(path, "--prompts", judge))


def _decoded(scene: Scene) -> Outcome:
    path = _broken_file(scene)
    return command(
        ["generate", "--batch-file", str(path), "--model", str(scene.sound / "model"), *LENGTHS]
    )


KINDS = (Kind("questions", _read, 6), Kind("prompts", _decoded, 8))
