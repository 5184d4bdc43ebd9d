"""One code base, ready to run: its modules, a tiny model of its classes, and its loops."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from faults.published.insert import inserted
from faults.published.weights import EOS, MASK, tiny
from skipstone.models.load import Model

# No correct run of the bench is as long; a fault can make a loop endless.
_MOST_CALLS = 120


@dataclass(frozen=True)
class Job:
    """What is decoded, and how."""

    loop: str
    """Which of the loops of a code base."""
    prompts: tuple[tuple[int, ...], ...]
    visible: tuple[tuple[int, ...], ...] | None = None
    """0 for padding of the prompts; None if there is none."""
    gen_length: int = 24
    block_length: int = 12
    steps: int = 16
    threshold: float | None = None
    seed: int = 0
    """Of the weights and of every draw."""
    options: tuple[tuple[str, Any], ...] = ()
    """More arguments of the loop."""
    kv_heads: int = 4
    ending: bool = False
    """Whether the model likes to end."""
    dtype: str = "float32"
    """Of the model."""
    sharp: bool = False
    """Whether the model is so sure that confidences come close to 1, and to each other."""

    def __str__(self) -> str:
        words = [self.loop, f"seed={self.seed}", f"new={self.gen_length}/{self.block_length}"]
        words += [f"threshold={self.threshold}"] if self.threshold else [f"steps={self.steps}"]
        words += [f"{name}={value}" for name, value in self.options]
        words += [self.dtype] if self.dtype != "float32" else []
        words += [f"batch={len(self.prompts)}"] if len(self.prompts) > 1 else []
        return " ".join(words)

    @property
    def model(self) -> Model:
        """Ours, whose weights the model of a code base has, if it is a LLaDA."""
        return tiny(self.seed, kv_heads=self.kv_heads, ending=self.ending, sharp=self.sharp)

    @property
    def ids(self) -> Tensor:
        """The prompts, int64 [B, P]."""
        return torch.tensor(self.prompts)

    @property
    def more(self) -> dict[str, Any]:
        """The other arguments by name."""
        return dict(self.options)


class EndlessError(Exception):
    """A loop goes on and on."""


@dataclass(frozen=True)
class Base:
    """A code base: how to import it, build a tiny model, and run its loops."""

    name: str
    needs: tuple[str, ...]
    """Checkouts, by the names of their options."""
    load: Callable[[Mapping[str, Path]], Mapping[str, ModuleType]]
    build: Callable[[Mapping[str, ModuleType], Job], nn.Module]
    run: Callable[[Code, Job], object]
    ours: bool = False
    """Whether an engine of ours can stand in for it, with ``Job.model``."""

    def at(self, modules: Mapping[str, ModuleType], job: Job) -> Code:
        """A new model for one run, so that a fault may change it."""
        net = self.build(modules, job).to(getattr(torch, job.dtype))
        return Code(self, modules, net.requires_grad_(False).eval(), job)


Context = AbstractContextManager[object]


@contextmanager
def together(*contexts: Context) -> Generator[None]:
    """Several changes at once."""
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


@dataclass(frozen=True, eq=False)
class Code:
    """What a fault is planted into."""

    base: Base
    modules: Mapping[str, ModuleType]
    """Theirs, by short names."""
    net: Any
    """Their model."""
    job: Job
    mask_id: int = field(default=MASK)
    eos_id: int = field(default=EOS)

    def insert(self, where: str, statement: str, *, after: str, nth: int | None = None) -> Context:
        """Put a statement into ``module.function`` or ``module.Class.method``; see ``inserted``."""
        return inserted(*self._find(where), statement, after=after, nth=nth)

    def change(self, where: str, make: Callable[[Any], object]) -> Context:
        """Put what ``make`` makes of a function in its place; ``where`` as for ``insert``."""
        owner, name = self._find(where)
        return patch.object(owner, name, make(getattr(owner, name)))

    def _find(self, where: str) -> tuple[object, str]:
        module, *path, name = where.split(".")
        owner: object = self.modules[module]
        for part in path:
            owner = getattr(owner, part)
        return owner, name

    def decode(self, job: Job) -> object:
        """Run a loop, from the same draws every time.

        Raises:
            EndlessError: the loop does not end.
        """
        torch.manual_seed(job.seed)
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1
            if calls > _MOST_CALLS:
                raise EndlessError(f"{calls} forwards")

        handle = self.net.register_forward_pre_hook(count)
        try:
            with torch.no_grad():
                return self.base.run(self, job)
        finally:
            handle.remove()

    @contextmanager
    def calls(self, change: Callable[[Call], None]) -> Generator[None]:
        """Let a function change the arguments of every call of the model."""
        number = 0

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
            nonlocal number
            call = Call(number, list(args), dict(kwargs))
            change(call)
            number += 1
            return tuple(call.args), call.kwargs

        handle = self.net.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


@dataclass(eq=False)
class Call:
    """The arguments of one call of the model, to be changed."""

    number: int
    args: list[Any]
    kwargs: dict[str, Any]

    @property
    def cached(self) -> bool:
        """Whether it goes on from a cache."""
        return self.kwargs.get("past_key_values") is not None
