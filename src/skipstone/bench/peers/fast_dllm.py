"""A local checkout of NVlabs/Fast-dLLM beside us: its code, our weights, the same schedule.

Method: Wu et al., "Fast-dLLM" (arXiv 2505.22618). Of a checkout, the ``llada`` part is imported and
run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skipstone.bench.cells import job_of
from skipstone.bench.peers.base import PeerCode, beyond_one_prompt, check_architecture
from skipstone.bench.peers.published import modules_of, runs_by
from skipstone.bench.plan import Generation
from skipstone.engine import Settings
from skipstone.models.base import ModelConfig
from skipstone.models.llada import LLADA
from skipstone.models.load import Model

_CACHES = {
    "dual cache": "generate_with_dual_cache",
    "prefix cache": "generate_with_prefix_cache",
}

Decode = Callable[..., tuple[Tensor, int]]


@dataclass(frozen=True, eq=False)
class FastDLLM:
    """Its model with our weights, and its decode loops."""

    network: Any
    loops: dict[str, Decode]

    @property
    def sides(self) -> tuple[str, ...]:
        """Both of its caches."""
        return tuple(self.loops)

    @property
    def note(self) -> str:
        """Nothing is changed."""
        return f"fast-dllm by {runs_by()}"

    def refusal(self, wanted: Generation) -> str | None:
        """Why a generation cannot be decoded by it; None if it can."""
        if reason := beyond_one_prompt(wanted):
            return reason
        if wanted.forwards < 2 * wanted.blocks:
            return "it needs two forwards a block"
        return None

    def ours(self, settings: Settings) -> Settings:
        """An even schedule, the most confident first, as it is."""
        return settings

    def decode(self, side: str, model: Model, wanted: Generation) -> tuple[Tensor, int]:
        """New ids [G], and the number of forwards."""
        (prompt,) = job_of(model.config, wanted).prompts
        with _attention_settings(efficient=False):
            ids, forwards = self.loops[side](
                self.network,
                torch.tensor([prompt], device=model.network.device),
                steps=wanted.forwards,
                gen_length=wanted.new,
                block_length=wanted.block,
                mask_id=model.config.mask_id,
            )
        return ids[0, wanted.prompt :], forwards


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


def _made(folder: Path, model: Model) -> FastDLLM:
    check_architecture(model, LLADA.name, LLADA.title)
    with _attention_settings():
        modelling, loops = modules_of(folder, "model.modeling_llada", "generate")
        network = _network(modelling, model)
    return FastDLLM(network, {side: getattr(loops, name) for side, name in _CACHES.items()})


def _network(modelling: Any, model: Model) -> Any:
    """Weights are shared, not copied: a second set of LLaDA-8B would not fit beside the first."""
    config = published_config(modelling.LLaDAConfig, model.config)
    bare = modelling.create_model_config_from_pretrained_config(config)
    bare.init_device = "meta"
    theirs = modelling.LLaDAModelLM(config, model=modelling.LLaDAModel(bare, init_params=False))
    theirs.load_state_dict(model.network.published(), strict=True, assign=True)
    return theirs.eval()


FAST_DLLM_CODE = PeerCode(
    name="fast-dllm",
    title="Fast-dLLM",
    url="https://github.com/NVlabs/Fast-dLLM",
    folders=("llada",),
    files=("generate.py", "model/modeling_llada.py", "model/configuration_llada.py"),
    needs=("transformers", "einops"),
    written_for="4.49",
    made=_made,
)
