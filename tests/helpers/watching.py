"""An observer that notes each step as plain data, and variations of the random model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from skipstone.cache import (
    CachePolicy,
    DelayedCache,
    DualCache,
    NoCache,
    PrefixCache,
    VicinityCache,
)
from skipstone.engine import Engine, Result, Settings
from skipstone.engine.observe import StepView, Taps
from skipstone.models.load import Model
from skipstone.models.parts.decoder import Decoder
from skipstone.rows import Rows
from skipstone.skip import CosineSkip
from skipstone.testing.tiny import EOS, tiny_model

# Settings at which the caches differ, and a skip that acts, on the models below.
LOW = CosineSkip(skip_layer_k=3, skip_threshold=0.7, skip_outlier=0.0)
BASE = Settings(gen_length=18, block_length=6, eos_stop=False)
# Those that go with every skip.
CACHES: list[CachePolicy] = [
    NoCache(),
    PrefixCache(),
    DualCache(),
    VicinityCache(2, 3, warmup=0),
    DelayedCache(5),
]

Place = tuple[int, int]
"""A request and an absolute position in its canvas."""


@dataclass(frozen=True)
class Seen:
    """What one step did."""

    block: int
    step: int
    forward: int
    recovery: bool
    rows: frozenset[Place]
    skipped: frozenset[Place]
    committed: tuple[Place, ...]
    old_commits: tuple[Place, ...]
    """Committed from scores of an earlier forward."""


def places(rows: Rows | None) -> frozenset[Place]:
    if rows is None:
        return frozenset()
    return frozenset(zip(rows.request.tolist(), rows.position.tolist(), strict=True))


@dataclass
class Watcher:
    """Notes every step; sees decisions only, unless told to tap more."""

    taps: Taps = field(default_factory=Taps)
    steps: list[Seen] = field(default_factory=list)
    ended: bool = False

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        self.lengths = [len(prompt) for prompt in prompts]

    def on_step(self, view: StepView) -> None:
        committed = self.here(view.commit_BG)
        old = view.commit_BG & (view.board.scored_at_BG != view.context.only.forward)
        entered = places(view.rows)
        self.steps.append(
            Seen(
                block=view.context.only.block.index,
                step=view.context.only.step,
                forward=view.context.only.forward,
                recovery=view.recovery,
                rows=entered,
                skipped=entered - places(view.finished),
                committed=committed,
                old_commits=self.here(old),
            )
        )

    def on_end(self, results: Sequence[Result]) -> None:
        self.ended = True

    def here(self, marked_BG: torch.Tensor) -> tuple[Place, ...]:
        pairs = marked_BG.nonzero().tolist()
        return tuple((int(b), self.lengths[int(b)] + int(offset)) for b, offset in pairs)

    @property
    def num_skipped(self) -> int:
        return sum(len(step.skipped) for step in self.steps)

    @property
    def num_old_commits(self) -> int:
        return sum(len(step.old_commits) for step in self.steps)


@dataclass
class Looking:
    """Hands every view to a function."""

    look: Callable[[StepView], None]
    taps: Taps = field(default_factory=Taps)
    ended: bool = False

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        pass

    def on_step(self, view: StepView) -> None:
        self.look(view)

    def on_end(self, results: Sequence[Result]) -> None:
        self.ended = True


def watch(engine: Engine, *prompts: Sequence[int]) -> tuple[list[Result], Watcher]:
    watcher = Watcher()
    return engine.generate_batch(list(prompts), observer=watcher), watcher


def network_of(model: Model) -> Decoder:
    assert isinstance(model.network, Decoder)
    return model.network


def head_of(model: Model) -> torch.Tensor:
    """The head's weights [V, D]; writing into them changes the model."""
    return network_of(model).published()["model.transformer.ff_out.weight"]


def uneven_model(seed: int, *, num_layers: int = 4, num_kv_heads: int = 4) -> Model:
    """A random model whose norm weights are not all 1, so that a norm left out shows."""
    return tiny_model(seed, num_layers=num_layers, num_kv_heads=num_kv_heads, norm_noise=0.2)


def ending_model(seed: int) -> Model:
    """A random model that predicts EOS often, so that requests end at different steps."""
    return tiny_model(seed, norm_noise=0.2, eos_scale=1.6)


def prompt_of(seed: int, length: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, EOS - 1, (length,), generator=generator).tolist()


def check_each_is_alone(engine: Engine, caches: Sequence[CachePolicy]) -> None:
    """Law 7: requests of an engine, each with its own cache, are decoded as they are alone."""
    prompts = [prompt_of(n, 3 + 5 * n % 11) for n in range(len(caches))]
    handles = [engine.submit(p, cache=c) for p, c in zip(prompts, caches, strict=True)]
    for prompt, own, handle in zip(prompts, caches, handles, strict=True):
        settings = engine.settings.replace(cache=own)
        alone = Engine(engine.model, settings, runner="eager").generate(prompt)
        assert handle.result(60).tokens == alone.tokens
        assert handle.result().stats.steps == alone.stats.steps
