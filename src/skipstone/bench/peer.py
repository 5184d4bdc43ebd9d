"""A local checkout of NVlabs/Fast-dLLM beside us: its code, our weights, the same schedule.

Method: Wu et al., "Fast-dLLM" (arXiv 2505.22618). Nothing of it comes with this package; the user
names a folder whose ``llada`` part is imported and run.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from skipstone.bench.cells import job_of
from skipstone.bench.plan import Generation
from skipstone.bench.timing import Clock, Rig, Times, clocked, in_turn, release
from skipstone.errors import ConfigError, nearest
from skipstone.models.base import ModelConfig
from skipstone.models.llada import LLADA
from skipstone.models.load import Model
from skipstone.quoting import one_line, shown

_NEEDED = ("transformers", "einops")
_FILES = ("generate.py", "model/modeling_llada.py", "model/configuration_llada.py")
_CACHES = {
    "dual cache": "generate_with_dual_cache",
    "prefix cache": "generate_with_prefix_cache",
}

Decode = Callable[..., tuple[Tensor, int]]


@dataclass(frozen=True)
class PeerCell:
    """One side at one generation."""

    generation: str
    side: str
    forwards: int
    ms: float
    low_ms: float
    high_ms: float
    again_ms: float
    times_ours: float
    """Its time by ours."""
    again_times_ours: float
    same_tokens: int | None
    """Tokens that equal ours at the same place; None for ourselves and for another cache."""
    new: int


@dataclass(frozen=True, eq=False)
class FastDLLM:
    """Its model with our weights, and its decode loops."""

    network: Any
    loops: dict[str, Decode]

    def decode(self, cache: str, model: Model, wanted: Generation) -> tuple[Tensor, int]:
        """New ids [G], and the number of forwards."""
        (prompt,) = job_of(model.config, wanted).prompts
        with _attention_settings(efficient=False):
            ids, forwards = self.loops[cache](
                self.network,
                torch.tensor([prompt], device=model.network.device),
                steps=wanted.forwards,
                gen_length=wanted.new,
                block_length=wanted.block,
                mask_id=model.config.mask_id,
            )
        return ids[0, wanted.prompt :], forwards


def parse_peer(text: str) -> Path:
    """Parse ``fast-dllm=PATH``, giving the folder of its LLaDA code.

    Raises:
        ConfigError: the peer is unknown, its files are not there, or what it needs is missing.
    """
    name, equals, path = text.partition("=")
    if name != "fast-dllm":
        raise ConfigError(f"peer {shown(name)} is unknown; {nearest(name, ['fast-dllm'])}")
    if not (equals and path):
        raise ConfigError(
            f"--peer is {shown(text)}, must be fast-dllm=PATH, a checkout of its code"
        )
    for folder in (Path(path) / "llada", Path(path)):
        if all((folder / file).is_file() for file in _FILES):
            break
    else:
        raise ConfigError(
            f"{path} is no checkout of Fast-dLLM: {', '.join(_FILES)} are not all in it, nor in "
            f"its llada folder; clone https://github.com/NVlabs/Fast-dLLM"
        )
    if missing := [package for package in _NEEDED if find_spec(package) is None]:
        raise ConfigError(
            f"Fast-dLLM needs {' and '.join(missing)} installed; run: pip install "
            f"{' '.join(missing)}"
        )
    return folder.resolve()


def refusal(wanted: Generation) -> str | None:
    """Why a generation cannot be decoded by the peer; None if it can."""
    if wanted.batch != 1:
        return "it decodes one prompt at a time"
    if wanted.skip_layer_k:
        return "it has no token skip"
    if wanted.forwards < 2 * wanted.blocks:
        return "it needs two forwards a block"
    return None


def build(folder: Path, model: Model) -> FastDLLM:
    """Its model at our shape, holding our very weights.

    Raises:
        ConfigError: its code does not run here.
    """
    try:
        with _importing_from(folder), _attention_settings():
            modelling = importlib.import_module("model.modeling_llada")
            loops = importlib.import_module("generate")
            network = _network(modelling, model)
    except Exception as error:
        raise ConfigError(
            f"Fast-dLLM's code in {folder} cannot be used ({one_line(error)}); its "
            f"requirements.txt names the versions that it was written for"
        ) from error
    return FastDLLM(network, {cache: getattr(loops, name) for cache, name in _CACHES.items()})


def beside(rig: Rig, peer: FastDLLM, wanted: Generation) -> list[PeerCell]:
    """Time our dual cache and both of the peer's, in turn, and compare the tokens."""
    release()
    job, clock, model = job_of(rig.model.config, wanted), Clock(rig.model), rig.model
    ours = torch.tensor(clock.run(job)[0].tokens)
    theirs = {cache: peer.decode(cache, model, wanted) for cache in _CACHES}

    def timed(cache: str) -> Callable[[], list[float]]:
        return lambda: [clocked(lambda: peer.decode(cache, model, wanted), rig.device)]

    sides = [lambda: [clock.seconds(job)], *map(timed, _CACHES)]
    mine, *others = in_turn(sides, rig.repeats)
    same = int((theirs["dual cache"][0].cpu() == ours).sum())
    rows: list[tuple[str, int, Times, int | None]]
    rows = [("skipstone dual cache", wanted.forwards, mine, None)]
    for (cache, (_, forwards)), times in zip(theirs.items(), others, strict=True):
        agreed = same if cache == "dual cache" else None
        rows.append((f"fast-dllm {cache}", forwards, times, agreed))
    return [
        PeerCell(
            generation=str(wanted),
            side=side,
            forwards=forwards,
            ms=times.ms,
            low_ms=times.low_ms,
            high_ms=times.high_ms,
            again_ms=times.again_ms,
            times_ours=times.ms / mine.ms,
            again_times_ours=times.again_ms / mine.again_ms,
            same_tokens=agreed,
            new=wanted.new,
        )
        for side, forwards, times, agreed in rows
    ]


@contextmanager
def _importing_from(folder: Path) -> Generator[None]:
    """Find modules in a folder first; its files import each other from there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _attention_settings(*, efficient: bool | None = None) -> Generator[None]:
    """Its model switches one kind of attention off for the whole process: let that be its own."""
    before = torch.backends.cuda.mem_efficient_sdp_enabled()
    if efficient is not None:
        torch.backends.cuda.enable_mem_efficient_sdp(efficient)
    try:
        yield
    finally:
        torch.backends.cuda.enable_mem_efficient_sdp(before)


def published_config(kind: Callable[..., Any], shape: ModelConfig) -> Any:
    """A published ``LLaDAConfig``, or a class like it, of our shape."""
    return kind(
        d_model=shape.width,
        n_heads=shape.num_heads,
        n_kv_heads=shape.num_kv_heads,
        n_layers=shape.num_layers,
        mlp_hidden_size=shape.mlp_width,
        vocab_size=shape.vocab_size,
        embedding_size=shape.vocab_size,
        max_sequence_length=shape.max_length,
        rope=True,
        rope_theta=shape.rope_theta,
        rms_norm_eps=shape.norm_eps,
        layer_norm_type="rms",
        block_type="llama",
        activation_type="silu",
        include_bias=False,
        include_qkv_bias=False,
        bias_for_layer_norm=False,
        attention_dropout=0.0,
        residual_dropout=0.0,
        embedding_dropout=0.0,
        weight_tying=shape.tied_head,
        mask_token_id=shape.mask_id,
        eos_token_id=shape.eos_id,
        pad_token_id=shape.eos_id,
    )


def _network(modelling: ModuleType, model: Model) -> Any:
    """Weights are shared, not copied: a second set of LLaDA-8B would not fit beside the first."""
    if model.config.architecture != LLADA.name:
        raise ConfigError(
            f"the peer runs {LLADA.title}, and {model.name} is a {model.config.architecture}; "
            f"choose a {LLADA.title} checkpoint"
        )
    config = published_config(modelling.LLaDAConfig, model.config)
    bare = modelling.create_model_config_from_pretrained_config(config)
    bare.init_device = "meta"
    theirs = modelling.LLaDAModelLM(config, model=modelling.LLaDAModel(bare, init_params=False))
    theirs.load_state_dict(model.network.published(), strict=True, assign=True)
    return theirs.eval()
