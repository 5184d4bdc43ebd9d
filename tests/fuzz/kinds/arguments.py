"""Command lines: every command with options of its own, of which some are odd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import click

from skipstone.bench.gate import Check
from skipstone.cli.main import COMMANDS, skipstone
from tests.fuzz.case import Kind, Outcome, Scene, command
from tests.fuzz.mutate import odd_text

# By the option. What is not here takes a path, one of a few words, or no value.
PLAUSIBLE: dict[str, tuple[str, ...]] = {
    "--gen-length": ("1", "4", "8"),
    "--max-new-tokens": ("1", "4", "8"),
    "--block-length": ("1", "3", "8", "64"),
    "--steps": ("1", "2", "8", "9"),
    "--cache": (
        "none",
        "prefix",
        "dual",
        "dual:refresh=2",
        "prefix:x=1",
        "Dual",
        "none:",
        "vicinity:2",
        "vicinity:warmup=-1",
        "dkv",
        "dkv:1",
        "once:4",
        "once:refresh_every=-1",
        "dllm",
        "dllm:ratio=2",
        "dyllm",
        "dyllm:threshold=2",
        "elastic",
        "elastic:gamma=2",
        "sparse",
        "sparse:kernel_size=2",
        "d2cache",
        "d2cache:current_k=0",
    ),
    "--unmask": (
        "fixed",
        "threshold:0.2",
        "threshold:value=2",
        "falling_threshold:0.5",
        "falling_threshold:alpha=2",
        "factor:1",
        "factor:value=nan",
        "credit:0.2",
        "credit:beta=2",
        "klass",
        "klass:drift=0",
        "dinfer_threshold:0.3",
        "dinfer_threshold:slack=2",
        "certainty:2",
        "certainty:sigma=0",
        "local_leap:0.2",
        "local_leap:radius=-1",
        "slow_fast:cut=true",
        "slow_fast:explore=0",
        "wino:0.2",
        "wino:back=2",
    ),
    "--skip": (
        "none",
        "cosine",
        "cosine:skip_layer_k=1",
        "cosine:skip_layer_k=1,skip_threshold=2",
        "ratio:0.5@0",
        "ratio:keep=0.5@2",
    ),
    "--top-p": ("0.9", "1", "0", "1e-300"),
    "--top-k": ("1", "50", "0"),
    "--stop-ids": ("none", "5", "5,17", "[5]", "-1", "5,,6"),
    "--stop-after": ("token", "block", "word"),
    "--suffix-window": ("none", "0", "4", "99", "-1", "1e3"),
    "--memory": ("1GB", "0.8", "80%", "1", "0"),
    "--temperature": ("0", "0.5", "1e308", "1e-320"),
    "--seed": ("0", "7"),
    "--budget": ("finish", "stop", "60s", "0"),
    "--device": ("cpu", "auto", "cuda", "cpu:7", "meta", "mps"),
    "--dtype": ("auto", "float32", "bfloat16", "float16", "float64", "int8"),
    "--prompt-ids": ("5", "5,17,3", "263", "264", "-1", "5,,3", "5, 6"),
    "--batch-size": ("1", "2"),
    "--slots": ("1", "2", "0"),
    "--name": ("pebble", " "),
    "--host": ("127.0.0.1", "::1", "nowhere.invalid"),
    "--max-body": ("1kB", "8MB", "0", "much"),
    "--max-waiting": ("0", "5", "-1"),
    "--replicas": ("0", "-1", "x"),
    "--ray-address": ("127.0.0.1:1", "nowhere", ""),
    "--drain": ("1s", "0s", "soon"),
    "--traces": ("kept", "", "/dev/null"),
    "--keep-traces": ("0", "5", "-1"),
    "--trace-space": ("1MB", "0", "much"),
    "--diagnosis-limit": ("1s", "0s", "soon"),
    "--allowed-host": ("a.example", "*", "https://a.example"),
    "--cors-origin": ("https://a.example", "*", "a.example"),
    "--port": ("0", "65536", "-1"),
    "--window": ("0.0", "0.1-1.2", "1.2-0.1", "9.9", "0.0-99999999999.0"),
    "--level": ("decisions", "sketches", "window", "full", "answer", "token", "decision"),
    "--step": ("0.0", "1.3", "9.9", "0", "0.0.0", "²"),
    "--at": ("0.0", "1.1", "9.9", "²", "0.²", "1.1e3"),
    "--with": ("skip=none", "cache=none unmask=fixed", "gen_length=4", "="),
    "--sample": ("0", "1", "7"),
    "--limit": ("1", "2"),
    "--time-every": ("1", "0", "-1", "x", "99999"),
    "--executor": ("serial", "local:0", "local:x", "ray:1", "slurm", "local:"),
    "--grid": ("unmask=fixed,threshold:0.2", "skip_threshold=0.5", "skip_layer_k=1,2", "x=1", "="),
    "--baseline": ("", "skip=none", "unmask=fixed", "model=x"),
    "--candidate": ("skip=none", "unmask=threshold:0.2", "cache=none"),
    "--a": ("", "cache=none", "skip=none unmask=fixed"),
    "--b": ("skip=none", "unmask=threshold:0.2", "cache=none cache=none"),
    "--max-disagreement": ("50%", "0.5", "0%", "100%", "101%", "-1%", "1e-300"),
    "--bound": ("1%", "50%", "0", "1"),
    "--confidence": ("0.95", "0", "1", "0.5"),
    "--batch": ("1", "2", "1,2", "0"),
    "--context": ("64", "1"),
    "--rows": ("8", "0"),
    "--going": ("0.25", "0.25,0.5", "2"),
    "--generation": ("19+128/32", "4+8/2x2@4", "4+8/9", "x", "4+8/2~1:0.5"),
    "--refresh": ("64", "1"),
    "--only": ("step", "skip,refresh", "peer", "steps"),
    "--gpu": ("h100", "a100", "h1000"),
    "--skip-layer-k": ("1", "4,8", "99"),
    "--length": ("512", "0"),
    "--repeats": ("2", "1"),
    "--judge": ("contains", "exact", "number", "os:system", "nope:nope", "x"),
    "--lang": ("en", "zh", "fr"),
    "--time-limit": ("0.1s", "0.1", "1h", "-1s", "nan"),
    "--peer": ("fast-dllm=/nonexistent", "sdar=/nonexistent", "x", "dream="),
    "--per-family": ("1", "0", "x"),
    "--gpu-times": ("missing.json", "."),
    "--reports": ("1", "0", "-1", "x"),
}
OUTPUTS = ("--output", "--report", "--junit", "--sarif")
FILES = ("--prompts", "--batch-file", "--api-keys-file")
_TRACES = ("a.trace", "b.trace", "made_up.trace")
# Given unless luck has it otherwise: without them a command takes minutes, not milliseconds.
_CHEAP = {"--gen-length": "8", "--model": "{sound}/model", "--time-limit": "0.1s"}
_ALWAYS = {"trace": "prompt", "generate": "prompt", "compare": "prompt"}


def _odd_arguments(scene: Scene) -> Outcome:
    """A command with a few options, one or two of which are odd."""
    random = scene.random
    name = random.choice(sorted(COMMANDS))
    found = skipstone.get_command(click.Context(skipstone), name)
    assert found is not None
    odd = random.choice((0.1, 0.3, 0.6))
    argv = [name]
    for parameter in found.params:
        argv += _given(scene, name, parameter, odd)
    if random.random() < 0.1:
        argv.insert(random.randrange(len(argv) + 1), odd_text(random))
    with _closed_gate():
        return command(argv, stdin=random.choice(("", "hello", "\x00\x1b[2J", "x" * 10_000)))


def _given(scene: Scene, name: str, parameter: click.Parameter, odd: float) -> Iterator[str]:
    """What is written for one parameter; nothing, if it is left out."""
    random = scene.random
    if isinstance(parameter, click.Argument):
        if random.random() < 0.9:
            yield from _positional(scene, name, parameter, odd)
        return
    option = parameter.opts[-1]
    strange = random.random() < odd
    usual = None if (name, option) == ("report", "--model") else _CHEAP.get(option)
    if usual is not None and not (strange and random.random() < 0.3):
        yield option
        yield usual.format(sound=scene.sound)
    elif parameter.required or random.random() < 0.25:
        yield random.choice([*parameter.opts, *parameter.secondary_opts])
        if not (isinstance(parameter, click.Option) and parameter.is_flag):
            yield odd_text(random) if strange else _value(scene, parameter)


def _value(scene: Scene, parameter: click.Parameter) -> str:
    """Something that the author of the option may have had in mind."""
    random, option = scene.random, parameter.opts[-1]
    if isinstance(parameter.type, click.Choice):
        return random.choice(list(parameter.type.choices))
    if option in OUTPUTS:
        return str(_place(scene))
    if option in FILES:
        return str(scene.sound / random.choice(("prompts.txt", "questions.jsonl", "model", "no")))
    if option == "--model":
        return random.choice((str(scene.sound / "model"), "nobody/nothing", "pebbel"))
    return random.choice(PLAUSIBLE[option])


def _place(scene: Scene) -> Path:
    """Where something is to be written."""
    taken = scene.here / "taken"
    taken.write_text("mine")
    return scene.random.choice(
        (
            *(scene.here / "new", taken, scene.here, scene.here / "no" / "such", taken / "x"),
            *(scene.here / ("x" * 300), Path("/dev/full"), Path("/dev/null"), Path()),
        )
    )


def _positional(scene: Scene, name: str, parameter: click.Argument, odd: float) -> Iterator[str]:
    random = scene.random
    if random.random() < odd / 2:
        yield odd_text(random)
    elif parameter.name in ("trace", "traces", "a", "b"):
        for _ in range(random.choice((2, 2, 3)) if parameter.nargs == -1 else 1):
            folder = scene.here / f"{random.randrange(10**9)}"
            folder.mkdir()
            copied = replace(scene, here=folder).copy(random.choice(_TRACES))
            yield str(copied)
    elif name in _ALWAYS or random.random() < 0.5:
        yield random.choice(("hi", "a b c", "-", "x" * 60))


def _completion(scene: Scene) -> Outcome:
    """Subcommands and options that do not exist, and help in odd places."""
    random = scene.random
    words = [odd_text(random), *COMMANDS, "--help", "-h", "--version", "--debug", "--json", "-o"]
    with _closed_gate():
        return command([random.choice(words) for _ in range(random.randrange(4))])


@contextmanager
def _closed_gate() -> Iterator[None]:
    """What goes on for long and is no fault ends at once: a bench at its gate, a server too."""
    closed = [Check("nothing", passed=False, detail="closed")]
    with (
        mock.patch("skipstone.bench.gate.gate", return_value=closed),
        mock.patch("skipstone.server.serving.serve"),
    ):
        yield


KINDS = (
    Kind("arguments", _odd_arguments, 24),
    Kind("words", _completion, 4),
)
