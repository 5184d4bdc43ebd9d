"""Dream as NVlabs/Fast-dLLM decodes it with a cache, beside us.

Method: Wu et al., "Fast-dLLM" (arXiv 2505.22618), for the model of Ye et al., "Dream 7B" (arXiv
2508.15487). Of a checkout, the ``dream`` part is imported and run: its modelling file, and the
``diffusion_generate`` of its ``generation_utils_block.py``. Dream's own loop, which caches nothing,
is in the same folder: a third side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from skipstone.bench.cells import job_of
from skipstone.bench.peers.base import PeerCode, beyond_one_prompt, check_architecture
from skipstone.bench.peers.published import CallCount, holding, modules_of, runs_by
from skipstone.bench.plan import Generation
from skipstone.engine import Settings
from skipstone.models.base import ModelConfig
from skipstone.models.dream import DREAM
from skipstone.models.load import Model
from skipstone.unmask import Fixed

_BLOCKS, _WHOLE = "model.generation_utils_block", "model.generation_utils"
_FILES = ("modeling_dream", "configuration_dream", "generation_utils_block", "generation_utils")
_UNCACHED = "no cache"


@dataclass(frozen=True, eq=False)
class CachedDream:
    """Its model with our weights, and its loops by side."""

    network: Any
    calls: CallCount
    loops: dict[str, Callable[..., Tensor]]
    config: Any
    """Of a generation, with the special ids."""

    @property
    def sides(self) -> tuple[str, ...]:
        """Both of its caches, and none."""
        return tuple(self.loops)

    @property
    def note(self) -> str:
        """Nothing is changed."""
        return f"dream by {runs_by()}"

    def refusal(self, wanted: Generation) -> str | None:
        """Why a generation cannot be decoded by it; None if it can."""
        if reason := beyond_one_prompt(wanted):
            return reason
        if wanted.forwards < 2 * wanted.blocks:
            return "it needs two forwards a block"
        return None

    def ours(self, settings: Settings) -> Settings:
        """Its cached rule: by entropy and time, and a block's first forward commits one mask."""
        rule = Fixed(order="entropy", schedule="time", first_alone=True)
        return settings.replace(unmask=rule)

    def decode(self, side: str, model: Model, wanted: Generation) -> tuple[Tensor, int]:
        """New ids [G], and the number of forwards."""
        (prompt,) = job_of(model.config, wanted).prompts
        self.calls.take()
        blocks = {"block_length": wanted.block, "dual_cache": side == "dual cache"}
        ids = self.loops[side](
            torch.tensor([prompt], device=model.network.device),
            generation_config=self.config,
            max_new_tokens=wanted.new,
            steps=wanted.forwards,
            alg="entropy",
            **({} if side == _UNCACHED else blocks),
        )
        return ids[0, wanted.prompt :], self.calls.take()


def published_config(kind: Callable[..., Any], shape: ModelConfig) -> Any:
    """A published ``DreamConfig`` of our shape."""
    return kind(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=shape.max_length,
        rms_norm_eps=shape.norm_eps,
        rope_theta=shape.rope_theta,
        tie_word_embeddings=shape.tied_head,
        mask_token_id=shape.mask_id,
        pad_token_id=shape.eos_id,
        eos_token_id=shape.eos_id,
        bos_token_id=shape.eos_id,
    )


def _made(folder: Path, model: Model) -> CachedDream:
    check_architecture(model, DREAM.name, DREAM.title)
    modelling, configuration, blocks, whole = modules_of(folder, *(f"model.{f}" for f in _FILES))
    shape = model.config
    config = published_config(configuration.DreamConfig, shape)
    weights, device = model.network.published(), model.network.device
    network = holding(modelling.DreamModel, config, weights, device)
    ids = {"mask_token_id": shape.mask_id, "pad_token_id": shape.eos_id}
    generation = blocks.DreamGenerationConfig(temperature=0.0, eos_token_id=shape.eos_id, **ids)
    cached = _bound(network, blocks)
    loops = {"dual cache": cached, "prefix cache": cached, _UNCACHED: _bound(network, whole)}
    return CachedDream(network, CallCount(network), loops, generation)


def _bound(network: Any, module: Any) -> Callable[..., Tensor]:
    """``diffusion_generate`` of one of its files for a network whose own is that of another."""
    loop = module.DreamGenerationMixin

    def decode(*given: Any, **more: Any) -> Tensor:
        network._sample = MethodType(loop._sample, network)
        return loop.diffusion_generate(network, *given, **more)

    return decode


DREAM_CODE = PeerCode(
    name="dream",
    title="Fast-dLLM's Dream",
    url="https://github.com/NVlabs/Fast-dLLM",
    folders=("dream",),
    files=tuple(f"model/{name}.py" for name in _FILES),
    needs=("transformers",),
    written_for="4.49",
    made=_made,
)
