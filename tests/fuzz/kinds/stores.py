"""What the product writes for itself and reads again: folders of sweeps, logs of audits."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

from skipstone.cli.main import run
from tests.fuzz import sound
from tests.fuzz.case import Kind, Outcome, Scene, call, judged, silent
from tests.fuzz.mutate import broken_bytes, broken_json, json_bytes

_TIMES = ("seconds", "tokens_per_second")


def _broken_sweep(scene: Scene) -> tuple[Path, Path]:
    """The folder, and the file in it that is no longer what was written."""
    random = scene.random
    folder = scene.copy("sweep")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = random.choice(files)
    if path.suffix == ".json" and random.random() < 0.7:
        path.write_bytes(json_bytes(broken_json(json.loads(path.read_bytes()), random), random))
    elif random.random() < 0.15:
        path.unlink()
    elif random.random() < 0.3:
        path.write_bytes(random.choice(files).read_bytes())
    else:
        path.write_bytes(broken_bytes(path.read_bytes(), random))
    return folder, path


def _swept(scene: Scene) -> Outcome:
    """A changed sweep is refused, or goes on to the measurements that it had."""
    folder, changed = _broken_sweep(scene)
    gone = not changed.exists()  # its prompt is measured again, which takes another time
    found: list[dict[str, object]] = []
    outcome = call(lambda: found.extend(sound.sweep(scene.sound, folder)))
    if outcome.refused or outcome.finding:
        return outcome
    wanted = json.loads((scene.sound / "sweep.json").read_text())
    if gone:
        found, wanted = _timeless(found), _timeless(wanted)
    return outcome if found == wanted else silent(outcome, f"{changed.name} was changed")


def _timeless(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if k not in _TIMES} for row in rows]


def _audited(scene: Scene) -> Outcome:
    """A changed log is refused, or its rows are those that were written."""
    random = scene.random
    path = scene.copy("log.jsonl")
    lines = path.read_bytes().splitlines()
    at = random.randrange(len(lines))
    luck = random.random()
    if luck < 0.5:
        lines[at] = json_bytes(broken_json(json.loads(lines[at]), random), random)
    elif luck < 0.6:
        lines[at] = random.choice(lines)
    elif luck < 0.7:
        random.shuffle(lines)
    content = b"\n".join(lines) + b"\n"
    path.write_bytes(content if luck < 0.7 else broken_bytes(content, random))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(sound.audit_arguments(scene.sound, path))
    outcome = judged(code, out.getvalue(), err.getvalue())
    if outcome.refused or outcome.finding:
        return outcome
    wanted = json.loads((scene.sound / "audit.json").read_text())
    same = json.loads(out.getvalue())["rows"] == wanted["rows"]
    return outcome if same else silent(outcome, "the rows of the audit are others")


KINDS = (Kind("sweep", _swept, 5), Kind("audit log", _audited, 6))
