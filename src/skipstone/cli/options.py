"""Options that commands share, read as text and parsed by the settings themselves.

One parser serves the command line, run specs and records, so an error reads the same everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from skipstone.checks import number, whole_number
from skipstone.cli.terminal import note
from skipstone.engine import Settings, parse_settings
from skipstone.engine.settings import ALIASES, canonical
from skipstone.errors import ConfigError, PromptError, nearest
from skipstone.policies import CACHE, SKIP, UNMASK, Kind
from skipstone.quoting import shown

if TYPE_CHECKING:
    from skipstone.engine import Engine
    from skipstone.models.load import Model

F = TypeVar("F", bound=Callable[..., Any])

# Below this many parameters a second thread gains little, and costs minutes on a busy machine:
# docs/decisions/0004-threads.md has the figures.
_SMALL = 100_000_000

# What a run spec may say beside settings.
_RUN_KEYS = ("model", "device", "dtype", "memory")


def _names(kind: Kind[Any]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Completes the names of policies in a shell."""
    return lambda ctx, param, begun: [name for name in kind.names() if name.startswith(begun)]


_OPTIONS = (
    click.option("--model", help="pebble, a directory, or a hub name.  [default: pebble]"),
    click.option("--device", help="cpu, cuda, ... or auto.  [default: auto]"),
    click.option("--dtype", help="float32, bfloat16, ... or auto.  [default: auto]"),
    click.option("--gen-length", metavar="N", help="New positions.  [default: 128]"),
    click.option("--max-new-tokens", metavar="N", help="The same as --gen-length."),
    click.option(
        "--block-length", metavar="N", help="Positions in a block.  [default: the model's, or 32]"
    ),
    click.option("--steps", metavar="N", help="Steps over all blocks (fixed, or budget stop)."),
    click.option(
        "--cache",
        metavar="POLICY",
        shell_complete=_names(CACHE),
        help="Which rows a step computes, as name:key=value,...; `skipstone policies` lists all.  "
        "[default: dual]",
    ),
    click.option(
        "--unmask",
        metavar="POLICY",
        shell_complete=_names(UNMASK),
        help="Which masks a step commits, like threshold:value=0.8.  [default: threshold]",
    ),
    click.option(
        "--skip",
        metavar="POLICY",
        shell_complete=_names(SKIP),
        help="Which rows leave early, like cosine:skip_layer_k=18.  [default: none]",
    ),
    click.option("--temperature", metavar="T", help="0 is greedy.  [default: 0]"),
    click.option("--top-p", metavar="P", help="Only the most probable tokens, up to P in all."),
    click.option("--top-k", metavar="N", help="Only the N most probable tokens."),
    click.option("--seed", metavar="N", help="Of temperature or random order."),
    click.option(
        "--eos-stop/--no-eos-stop", default=None, help="Stop at EOS.  [default: eos-stop]"
    ),
    click.option(
        "--budget",
        metavar="finish|stop",
        help="Decode until no mask is left, or stop after the steps.  [default: finish]",
    ),
    click.option(
        "--growing-canvas/--full-canvas",
        default=None,
        help="Masks of one block at a time, or of all blocks.  [default: full-canvas]",
    ),
    click.option(
        "--absolute-blocks/--no-absolute-blocks",
        default=None,
        help="Count blocks from position 0.  [default: from the prompt's end]",
    ),
    click.option(
        "--stop-after",
        metavar="token|block",
        help="End at EOS, or with the block that it is in.  [default: token]",
    ),
    click.option("--stop-ids", metavar="5,17", help="Token ids that end an answer as EOS does."),
    click.option(
        "--reuse-prefix/--no-reuse-prefix",
        default=None,
        help="Take over the K/V of a prompt's beginning from an earlier prompt that begins so "
        "too.  [default: where it is exact]",
    ),
    click.option(
        "--suffix-window",
        metavar="N",
        help="Compute and see only N positions right of a block.  [default: all]",
    ),
    click.option("--debug", is_flag=True, expose_value=False, help="Print tracebacks."),
)


memory_option = click.option(
    "--memory",
    metavar="40GB|SHARE",
    help="What keys and values may take, and what policies keep beside them: bytes, or a share of "
    "what is free.  [default: half of a GPU; on a CPU what they need]",
)


def run_options(command: F) -> F:
    """Add the options of a run to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class RunSpec:
    """A model and settings, as texts."""

    model: str
    device: str
    dtype: str
    settings: Settings
    memory: float | str | None = None
    """What keys and values may take, and what policies keep beside them."""

    def engine(self, model: Model | None = None, slots: int = 16) -> Engine:
        """An engine of these settings; for a model that is loaded already, if one is given.

        What they leave open and the model recommends is said.

        Args:
            model: loaded if None.
            slots: how many requests are decoded at once where they come one by one.
        """
        from skipstone.engine import Engine

        model = model or self.load()
        (run,) = settled(model, self)
        return Engine(model, run.settings, memory=self.memory, slots=slots)

    def anywhere(self) -> RunSpec:
        """The same, for a process that has another working folder."""
        return replace(self, model=os.path.abspath(self.model)) if _is_folder(self.model) else self

    def load(self) -> Model:
        """Load the model, and choose the threads of this process if the user has not."""
        import torch

        from skipstone.models.load import load

        model = load(self.model, device=self.device, dtype=self.dtype)
        if model.config.num_parameters < _SMALL and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)
        return model


def _is_folder(model: str) -> bool:
    return model != "pebble" and os.path.isdir(model)


def settled(model: Model, *runs: RunSpec) -> list[RunSpec]:
    """Runs with what their model recommends decided; what is taken of it is said once.

    Those that are held against each other differ in what their user stated alone.

    Raises:
        ConfigError: the steps of one do not fit the model.
    """
    from skipstone.engine.defaults import alike, decided, taken

    settings = [run.settings for run in runs]
    ours = alike(settings, model) if len(runs) > 1 else [decided(settings[0], model)]
    pairs = list(zip(runs, ours, strict=True))
    found = {n: t for run, own in pairs for n, t in taken(run.settings, own, model).items()}
    if found:
        spec = " ".join(f"{name}={text}" for name, text in found.items())
        note(f"from the model: {spec} ({model.recommended.by}); what is stated wins")
    return [replace(run, settings=own) for run, own in pairs]


def loaded_pair(a: RunSpec, b: RunSpec) -> tuple[tuple[RunSpec, Model], tuple[RunSpec, Model]]:
    """Two runs that are held against each other, settled, and their models; one if they share it.

    Raises:
        SkipstoneError: a model cannot be loaded, or a run does not fit it.
    """
    model = a.load()
    other = model if (a.model, a.device, a.dtype) == (b.model, b.device, b.dtype) else b.load()
    if a.model == b.model:
        mine, theirs = settled(model, a, b)
    else:
        (mine,), (theirs,) = settled(model, a), settled(other, b)
    return (mine, model), (theirs, other)


def given(options: Mapping[str, object]) -> dict[str, str]:
    """The options that were given, as texts by setting name."""
    texts = {name: value for name, value in options.items() if value is not None}
    return canonical(
        {n: str(v).lower() if isinstance(v, bool) else str(v) for n, v in texts.items()}
    )


def run_spec(texts: Mapping[str, str]) -> RunSpec:
    """Parse a run from texts by name; keys may be written with hyphens.

    Raises:
        ConfigError: a key is unknown or a value is refused.
    """
    texts = canonical({name.replace("-", "_"): text for name, text in texts.items()})
    names = [*_RUN_KEYS, *Settings.__dataclass_fields__]
    for name in texts:
        if name not in names:
            known = [*names, *ALIASES]
            raise ConfigError(f"setting {shown(name)} is unknown; {nearest(name, known)}")
    return RunSpec(
        model=texts.get("model", "pebble"),
        device=texts.get("device", "auto"),
        dtype=texts.get("dtype", "auto"),
        settings=parse_settings({n: t for n, t in texts.items() if n not in _RUN_KEYS}),
        memory=_memory(texts.get("memory")),
    )


def _memory(text: str | None) -> float | str | None:
    """Bytes as they are written; a share as a number.

    Raises:
        ConfigError: it is neither.
    """
    if text is None:
        return None
    # It imports torch, which whoever gives no memory does not need yet.
    from skipstone.memory.limit import MemoryLimit

    try:
        share = number(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return MemoryLimit.of(text).asked
    return MemoryLimit.of(share).asked


def parse_ids(text: str) -> list[int]:
    """Parse ``5,17,3``.

    Raises:
        PromptError: it is no list of ids.
    """
    try:
        return [whole_number(part) for part in text.split(",")]
    except ValueError:
        raise PromptError(
            f"--prompt-ids is {shown(text)}, must be whole numbers separated by commas, like 5,17,3"
        ) from None


def parse_numbers(option: str, text: str, low: int, high: int) -> list[int]:
    """Parse ``4,8,18``.

    Raises:
        ConfigError: it is no list of whole numbers, or one is out of bounds.
    """
    try:
        numbers = [whole_number(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{option} is {shown(text)}, must be whole numbers separated by commas, like 4,8"
        ) from None
    for found in numbers:
        if not low <= found <= high:
            raise ConfigError(f"{option} has {found}, must be between {low} and {high}")
    return numbers


def parse_rate(text: str, option: str) -> float:
    """Parse ``0.5%`` or ``0.005``.

    Raises:
        ConfigError: it is no rate.
    """
    try:
        return number(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ConfigError(f"{option} is {shown(text)}, must be a rate like 0.5% or 0.005") from None
