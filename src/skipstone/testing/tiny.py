"""A tiny model with random weights: what tests of an engine or a policy decode with.

Shape letters: V vocabulary, D width.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor

from skipstone.models import table
from skipstone.models.base import ModelConfig
from skipstone.models.llada import LLADA
from skipstone.models.load import Model
from skipstone.text import Text

VOCAB, MASK, EOS = 64, 62, 63
"""Tokens of a tiny model, and its two special ids."""


def tiny_model(
    seed: int = 0,
    *,
    num_layers: int = 4,
    num_heads: int = 4,
    num_kv_heads: int = 4,
    sharpness: float = 4.0,
    norm_noise: float = 0.0,
    eos_scale: float = 1.0,
    dtype: torch.dtype = torch.float64,
    config: ModelConfig | None = None,
) -> Model:
    """A random LLaDA of 64 tokens and width 32 on the CPU; the same for the same arguments.

    Prompts are lists of ids below 62 (``MASK``; 63 is ``EOS``), or texts of the words ``w0`` to
    ``w61``. Canvases reach up to 256 positions.

    Args:
        seed: of its weights, which are normal with a deviation of one over the root of their
            columns.
        num_layers: how many layers.
        num_heads: query heads, which share the width of 32.
        num_kv_heads: key/value heads; fewer than ``num_heads`` are shared between these.
        sharpness: scale of the head's weights [V, D]; larger gives more confident, more varied
            choices.
        norm_noise: deviation of the norm weights [D] from 1, and of biases from 0, so that one left
            out shows.
        eos_scale: what the head's row of EOS is multiplied by; above 1, answers end early.
        dtype: of weights and states; float64, so that rounding decides nothing.
        config: of a model of another shape, instead of the numbers of layers and heads above.
    """
    config = config or ModelConfig(
        architecture=LLADA.name,
        width=32,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_width=32 // num_heads,
        mlp_width=48,
        vocab_size=VOCAB,
        max_length=256,
        rope_theta=10000.0,
        norm_eps=1e-5,
        tied_head=False,
        mask_id=MASK,
        eos_id=EOS,
    )
    network = table.build(config, dtype, torch.device("cpu"))
    weights, head = network.published(), table.entry_of(config).names.outer["head"]
    _fill(weights, seed, {head: sharpness})
    _fill_vectors(weights, seed + 1000, norm_noise)
    if not config.tied_head:
        weights[head][config.eos_id] *= eos_scale
    return Model(f"random-{seed}", network, word_text())


def _fill(weights: dict[str, Tensor], seed: int, scales: dict[str, float]) -> None:
    """Random matrices."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in weights.items():
        if tensor.ndim == 2:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(noise * scales.get(name, 1.0) / tensor.shape[-1] ** 0.5)


def _fill_vectors(weights: dict[str, Tensor], seed: int, noise: float) -> None:
    """Norm weights around 1, and biases around 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in weights.items():
        if tensor.ndim == 1:
            apart = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(noise * apart + (0.0 if name.endswith("bias") else 1.0))


def word_text() -> Text:
    """A tokenizer of the words ``w0`` to ``w61``, ``<mask>`` and ``<eos>``; no chat template."""
    words = {f"w{i}": i for i in range(VOCAB - 2)} | {"<mask>": MASK, "<eos>": EOS}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(["<mask>", "<eos>"])
    return Text(tokenizer, template=None, special={}, mask_id=MASK, eos_id=EOS, source="words")
