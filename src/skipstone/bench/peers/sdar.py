"""JetAstra/SDAR beside us: its ``block_diffusion_generate`` and its modelling file, our weights.

Method: "SDAR" (arXiv 2510.06303). Of a checkout, ``generate.py`` and the modelling file of the 8B
model under ``training`` are imported and run. Two things are not as published. It draws tokens, and
at temperature 0 has no way to take the best: ``torch.multinomial`` takes it while it runs, so that
tokens can be compared. And where flash-attn is not installed, PyTorch's attention and RMS norm,
which are fused kernels too, stand for it.

Shape letters: B batch, N rows, L positions, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from skipstone.bench.cells import job_of
from skipstone.bench.peers.base import PeerCode, beyond_one_prompt, check_architecture
from skipstone.bench.peers.published import CallCount, holding, modules_of, runs_by, standing_in
from skipstone.bench.plan import Generation
from skipstone.engine import Settings
from skipstone.models.base import ModelConfig
from skipstone.models.load import Model
from skipstone.models.sdar import SDAR

_MODEL = "training/model/SDAR-8B-Chat"
_SIDE = "block cache"


@dataclass(frozen=True, eq=False)
class PublishedSDAR:
    """Its model with our weights, and its decode loop."""

    network: Any
    calls: CallCount
    loop: Callable[..., Tensor]
    flash: bool
    """Whether flash-attn is installed."""

    @property
    def sides(self) -> tuple[str, ...]:
        """It has one way."""
        return (_SIDE,)

    @property
    def note(self) -> str:
        """How it comes to be greedy, and what stands for flash-attn."""
        attention = (
            "" if self.flash else "; PyTorch's attention and RMS norm stand for flash-attn's"
        )
        return f"sdar by {runs_by()}; the most probable token, where it draws one{attention}"

    def refusal(self, wanted: Generation) -> str | None:
        """Why a generation cannot be decoded by it; None if it can."""
        if reason := beyond_one_prompt(wanted):
            return reason
        if wanted.prompt % wanted.block:
            return (
                f"its blocks begin at multiples of {wanted.block}, and it takes its quota from the "
                f"prompt where a block begins within it: let the prompt be a multiple, too"
            )
        return None

    def ours(self, settings: Settings) -> Settings:
        """An even schedule, the most confident first: its ``low_confidence_static``."""
        return settings

    def decode(self, side: str, model: Model, wanted: Generation) -> tuple[Tensor, int]:
        """New ids [G], and the number of forwards: those that write a block's K/V, too."""
        (prompt,) = job_of(model.config, wanted).prompts
        self.calls.take()
        with _taking_the_best():
            ids = self.loop(
                self.network,
                prompt={"input_ids": torch.tensor([prompt], device=model.network.device)},
                mask_id=model.config.mask_id,
                gen_length=wanted.new,
                block_length=wanted.block,
                denoising_steps=wanted.forwards // wanted.blocks,
                temperature=1.0,
                remasking_strategy="low_confidence_static",
            )
        return ids[0, wanted.prompt :], self.calls.take()


def published_config(kind: Callable[..., Any], shape: ModelConfig) -> Any:
    """A published ``SDARConfig`` of our shape."""
    return kind(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_width,
        max_position_embeddings=shape.max_length,
        rms_norm_eps=shape.norm_eps,
        rope_theta=shape.rope_theta,
        tie_word_embeddings=shape.tied_head,
        sliding_window=None,
        fuse_cross_entropy=False,
        mask_token_id=shape.mask_id,
        eos_token_id=shape.eos_id,
        bos_token_id=shape.eos_id,
    )


def _made(folder: Path, model: Model) -> PublishedSDAR:
    check_architecture(model, SDAR.name, SDAR.title)
    place, package = (folder / _MODEL).parent, (folder / _MODEL).name
    names = (f"{package}.modeling_sdar", f"{package}.configuration_sdar")
    flash = find_spec("flash_attn") is not None
    with standing_in({} if flash else _flash_attention()):
        modelling, configuration = modules_of(place, *names)
    (generate,) = modules_of(folder, "generate")
    config = published_config(configuration.SDARConfig, model.config)
    weights, device = model.network.published(), model.network.device
    network = holding(modelling.SDARForCausalLM, config, weights, device)
    return PublishedSDAR(network, CallCount(network), generate.block_diffusion_generate, flash)


@contextmanager
def _taking_the_best() -> Generator[None]:
    """Within it, what is drawn is what is most probable."""
    drawn = torch.multinomial

    def best(probs: Tensor, num_samples: int) -> Tensor:
        return probs.argmax(dim=-1, keepdim=True)

    setattr(torch, "multinomial", best)  # noqa: B010
    try:
        yield
    finally:
        setattr(torch, "multinomial", drawn)  # noqa: B010


def _flash_attention() -> dict[str, ModuleType]:
    """What its modelling file takes from flash-attn, by PyTorch."""
    attention, norms = ModuleType("flash_attn"), ModuleType("flash_attn.ops.triton.layer_norm")
    padding = ModuleType("flash_attn.bert_padding")
    between = [ModuleType(name) for name in ("flash_attn.ops", "flash_attn.ops.triton")]
    setattr(attention, "flash_attn_func", _attended)  # noqa: B010
    setattr(norms, "rms_norm_fn", _normed)  # noqa: B010
    # For training alone.
    setattr(attention, "flash_attn_varlen_func", None)  # noqa: B010
    for name in ("index_first_axis", "pad_input", "unpad_input"):
        setattr(padding, name, None)
    found = {module.__name__: module for module in (attention, *between, norms, padding)}
    for name, module in found.items():
        # Who looks whether flash-attn is installed asks for it.
        module.__spec__ = ModuleSpec(name, loader=None)
    return found


def _attended(
    q_BNHE: Tensor, k_BLHE: Tensor, v_BLHE: Tensor, *, causal: bool, softmax_scale: float
) -> Tensor:
    """``flash_attn_func``: [B, N, H, E]."""
    q, k, v = (x.transpose(1, 2) for x in (q_BNHE, k_BLHE, v_BLHE))
    attended = F.scaled_dot_product_attention(
        q, k, v, is_causal=causal, scale=softmax_scale, enable_gqa=True
    )
    return attended.transpose(1, 2)


def _normed(x: Tensor, weight: Tensor, bias: None, eps: float) -> Tensor:
    """``rms_norm_fn``."""
    return F.rms_norm(x, weight.shape, weight, eps)


SDAR_CODE = PeerCode(
    name="sdar",
    title="SDAR",
    url="https://github.com/JetAstra/SDAR",
    folders=(),
    files=("generate.py", f"{_MODEL}/modeling_sdar.py", f"{_MODEL}/configuration_sdar.py"),
    needs=("transformers", "einops"),
    written_for="4.52",
    made=_made,
)
