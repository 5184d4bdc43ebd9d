"""Faults that were found once, each built anew: they come first, and none may come back.

A case says too what has to come of it: *refused* with an error of our own, *accepted*, or either.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from skipstone import Engine, load, open_trace
from skipstone.record.store import DATABASE, SHARDS
from skipstone.testing.checkpoint import random_weights, write_checkpoint
from tests.fuzz.case import Act, Kind, Outcome, Scene, call, command
from tests.fuzz.kinds.traces import contents
from tests.fuzz.sound import LENGTHS

Wanted = Literal["refused", "accepted", "either"]


@dataclass(frozen=True)
class Entry:
    """One fault of the past."""

    wanted: Wanted
    act: Act


# --- models ---------------------------------------------------------------------------------------


def _config(**fields: object) -> Act:
    def act(scene: Scene) -> Outcome:
        folder = write_checkpoint(scene.here / "model")
        path = folder / "config.json"
        value = {**json.loads(path.read_bytes()), **fields}
        path.write_text(json.dumps({k: v for k, v in value.items() if v != "absent"}))
        return _decoded(scene)

    return act


def _decoded(scene: Scene, prompt: str = "hi", *more: str) -> Outcome:
    return command(["generate", prompt, "--model", str(scene.here / "model"), *LENGTHS, *more])


def _theta(scene: Scene) -> Outcome:
    """The angle's base is named in the newer place only: it is read from there, or refused."""
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    _config(rope_theta="absent", rope_parameters=rope)(scene)
    seen = list[float]()
    outcome = call(lambda: seen.append(load(scene.here / "model").config.rope_theta))
    return _held(outcome, not seen or seen == [500000.0], f"rope_theta is {seen}")


def _held(outcome: Outcome, condition: object, what: str) -> Outcome:
    return outcome if condition or outcome.finding else Outcome(outcome.refused, "wrong", what)


def _half_a_character(scene: Scene) -> Outcome:
    """JSON can spell what is no text."""
    folder = write_checkpoint(scene.here / "model")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "bos_token": "\ud800"}))
    return _decoded(scene)


def _long_shard(scene: Scene) -> Outcome:
    """The index names a file whose name no disk takes."""
    folder = write_checkpoint(scene.here / "model", shards=2)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"x": "9" * 5000 + ".safetensors"}}))
    return _decoded(scene)


def _adapter(scene: Scene) -> Outcome:
    folder = scene.here / "model"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return _decoded(scene)


def _overflow(scene: Scene) -> Outcome:
    """Weights that are finite in float16, and whose products are not."""
    weights = {name: w.half() for name, w in random_weights().items()}
    weights["model.transformer.blocks.0.ff_proj.weight"].fill_(6e4)
    weights["model.transformer.blocks.0.up_proj.weight"].fill_(6e4)
    write_checkpoint(scene.here / "model", weights=weights)
    return _decoded(scene, "hi", "--dtype", "float16")


# --- templates ------------------------------------------------------------------------------------


def _template(template: object, *, file: bool = False) -> Act:
    def act(scene: Scene) -> Outcome:
        folder = write_checkpoint(scene.here / "model", template=None if file else template)
        if file:
            (folder / "chat_template.jinja").write_text(str(template))
        return _decoded(scene)

    return act


TEMPLATES: Mapping[str, tuple[Wanted, object]] = {
    "center": ("refused", '{{ messages[0].content }}{{ "x"|center(3000000000) }}'),
    "folded format": ("refused", "{{ messages[0].content }}{{ '%9999999999d' % 1 }}"),
    "format filter": ("refused", "{{ messages[0].content }}{{ '%9999999999d'|format(1) }}"),
    "ljust": ("refused", "{{ messages[0].content }}{{ 'x'.ljust(3000000000) }}"),
    "zfill": ("refused", "{{ messages[0].content }}{{ 'x'.zfill(3000000000) }}"),
    "map center": (
        "refused",
        "{{ messages[0].content }}{{ range(9999)|map('string')|map('center', 99999)|join }}",
    ),
    "power": ("refused", "{{ messages[0].content }}{{ 9 ** (9 ** 9) }}"),
    "times": ("refused", "{{ messages[0].content }}{{ 'x' * 3000000000 }}"),
    "endless": ("refused", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
    "drops the prompt": ("refused", "hello"),
    "generation": ("accepted", "{% generation %}{{ messages[0].content }}{% endgeneration %}"),
    "break": (
        "accepted",
        "{% for m in messages %}{{ m.content }}{% break %}{% endfor %}",
    ),
    "list": ("accepted", [{"name": "default", "template": "{{ messages[0].content }}"}]),
}


# --- traces ---------------------------------------------------------------------------------------


def _sql(script: str, act: Callable[[Scene], Outcome]) -> Act:
    """A trace whose database an attacker has changed."""

    def build(scene: Scene) -> Outcome:
        trace = scene.copy("a.trace", "run.trace")
        with closing(sqlite3.connect(trace / DATABASE)) as database:
            database.executescript(script)
        return act(scene)

    return build


def _shown(scene: Scene) -> Outcome:
    return command(["show", str(scene.here / "run.trace"), "--steps"])


def _noted(scene: Scene) -> Outcome:
    """An experiment is noted; whatever the database says, no step is gone after it."""
    path = scene.here / "run.trace"

    def note() -> None:
        with open_trace(path) as trace:
            trace.add_experiment("a", "{}", "{}")

    outcome = call(note)
    with closing(sqlite3.connect(path / DATABASE)) as database:
        (left,) = database.execute("SELECT count(*) FROM steps").fetchone()
    return _held(outcome, left == 8, f"{left} of 8 steps are left")


def _flipped(scene: Scene) -> Outcome:
    """A bit of a shard's values."""
    path = sorted((scene.copy("a.trace") / SHARDS).iterdir())[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return call(partial(contents, scene.here / "a.trace"))


def _swapped(scene: Scene) -> Outcome:
    """The shard of another step."""
    one, other = sorted((scene.copy("a.trace") / SHARDS).iterdir())[1:3]
    one.write_bytes(other.read_bytes())
    return call(partial(contents, scene.here / "a.trace"))


ENDLESS = (
    "ALTER TABLE steps RENAME TO old; CREATE VIEW steps AS WITH RECURSIVE c(x) AS "
    "(SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT old.* FROM old, c"
)
DELETES = "CREATE TRIGGER tr AFTER INSERT ON experiments BEGIN DELETE FROM steps; END"


# --- prompts and command lines --------------------------------------------------------------------


def _file(name: str, content: bytes) -> Act:
    def act(scene: Scene) -> Outcome:
        (scene.here / name).write_bytes(content)
        (scene.here / "model").symlink_to(scene.sound / "model")
        path = str(scene.here / name)
        return command(
            ["generate", "--batch-file", path, "--model", str(scene.here / "model"), *LENGTHS]
        )

    return act


def _argv(*arguments: str, stdin: str = "") -> Act:
    """A command line; ``{model}``, ``{trace}`` and ``{here}`` are filled in."""

    def act(scene: Scene) -> Outcome:
        places = {
            "model": scene.sound / "model",
            "trace": scene.copy("a.trace", "run.trace"),
            "here": scene.here,
        }
        return command([argument.format(**places) for argument in arguments], stdin=stdin)

    return act


def _generate(*more: str, stdin: str = "") -> Act:
    return _argv("generate", "--model", "{model}", *LENGTHS, *more, stdin=stdin)


def _python(act: Callable[[Engine], object]) -> Act:
    return lambda scene: call(lambda: act(Engine(load(scene.sound / "model"), gen_length=4)))


MESSAGES: Any = [{"role": "user", "content": "hi"}]
ROW: Any = torch.tensor([[5, 6]])
_HUGE = "1" + "0" * 400

ENTRIES: dict[str, Entry] = {
    "rope_parameters alone": Entry("either", _theta),
    "null for a default": Entry("accepted", _config(bias_for_layer_norm=None)),
    "another model_type": Entry("refused", _config(model_type="gpt2")),
    "half a character": Entry("refused", _half_a_character),
    "a shard of a long name": Entry("refused", _long_shard),
    "an adapter": Entry("refused", _adapter),
    "float16 that overflows": Entry("refused", _overflow),
    **{f"template: {n}": Entry(wanted, _template(t)) for n, (wanted, t) in TEMPLATES.items()},
    "template of a file": Entry("accepted", _template("{{ messages[0].content }}", file=True)),
    "trigger that deletes": Entry("refused", _sql(DELETES, _noted)),
    "view without an end": Entry("refused", _sql(ENDLESS, _shown)),
    "flipped bit of a shard": Entry("refused", _flipped),
    "swapped shards": Entry("refused", _swapped),
    "missing step": Entry("either", _sql("DELETE FROM steps WHERE forward = 3", _shown)),
    "BOM": Entry("accepted", _file("p.txt", b"\xef\xbb\xbfone\r\ntwo\r\n")),
    "UTF-16": Entry("either", _file("p.txt", "one\ntwo".encode("utf-16"))),
    "lines of JSON under other names": Entry("either", _file("p.ndjson", b'{"prompt": "a"}\n')),
    "one JSON list": Entry("either", _file("p.json", b'["a", "b"]')),
    "unknown key": Entry("either", _file("p.jsonl", b'{"prompt": "a", "promt": "b"}\n')),
    "key given twice": Entry("refused", _file("p.jsonl", b'{"prompt": "a", "prompt": "b"}\n')),
    "standard input": Entry("accepted", _generate("-", stdin="hello\n")),
    "10^400": Entry("refused", _generate("hi", "--seed", _HUGE, "--temperature", "1")),
    "10^400 tokens": Entry("refused", _argv("generate", "hi", "--gen-length", _HUGE)),
    "10^18 tokens": Entry("refused", _generate("hi", "--gen-length", str(10**18))),
    "300 characters": Entry("refused", _argv("generate", "hi", "--model", "x" * 300)),
    "300 characters to write": Entry(
        "refused", _argv("export", "{trace}", "--to", "parquet", "-o", "{here}/" + "x" * 300)
    ),
    "a name of 300": Entry("refused", _generate("hi", "--unmask", "y" * 300)),
    "superscript": Entry("refused", _argv("step", "{trace}", "--at", "².0")),
    "superscript step": Entry("refused", _argv("show", "{trace}", "--step", "0.²")),
    "steps beside a threshold": Entry("accepted", _generate("hi", "--steps", "4")),
    "a dtype as an object": Entry(
        "accepted", lambda scene: call(lambda: load(scene.sound / "model", dtype=torch.float32))
    ),
    "a policy as text": Entry(
        "accepted", lambda scene: call(lambda: Engine(load(scene.sound / "model"), cache="dual"))
    ),
    "messages": Entry("accepted", _python(lambda engine: engine.generate(MESSAGES))),
    "a tensor of one row": Entry("either", _python(lambda engine: engine.generate(ROW))),
    "bytes": Entry("refused", _python(lambda engine: engine.generate(b"hi"))),
}


def _case(scene: Scene) -> Outcome:
    """One entry: what is wanted has come of it."""
    names = list(ENTRIES)
    return check(names[scene.number % len(names)], scene)


def check(name: str, scene: Scene) -> Outcome:
    """Carry out one entry."""
    entry = ENTRIES[name]
    outcome = entry.act(scene)
    if outcome.finding:
        return outcome
    came = "refused" if outcome.refused else "accepted"
    return _held(outcome, entry.wanted in (came, "either"), f"{name!r} was {came}")


KINDS = (Kind("corpus", _case, 25, most=len(ENTRIES)),)
