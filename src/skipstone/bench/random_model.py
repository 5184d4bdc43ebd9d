"""A model of a given shape with random weights: under a forced schedule its time is that of any."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from skipstone.models import table
from skipstone.models.base import ModelConfig
from skipstone.models.load import Model
from skipstone.ops import prefetch
from skipstone.text import Text


def random_model(
    name: str, config: ModelConfig, device: torch.device, dtype: torch.dtype, *, seed: int = 0
) -> Model:
    """Weights from a normal distribution, norms of 1.

    Args:
        name: of the model.
        config: its shape.
        device: where the weights are made.
        dtype: of the weights.
        seed: of the weights.
    """
    prefetch.fetch(device)
    network = table.build(config, dtype, device)
    generator = torch.Generator(device).manual_seed(seed)
    weights = network.published()
    for weight_name, weight in weights.items():
        if weight.ndim > 1:
            weight.normal_(0.0, 0.02, generator=generator)
        else:
            weight.fill_(0.0 if weight_name.endswith("bias") else 1.0)
    if not config.tied_head:
        # Its logit is 0, never the largest: code that does not suppress the mask commits none.
        weights[table.entry_of(config).names.outer["head"]][config.mask_id] = 0.0
    words = {f"w{i}": i for i in range(config.vocab_size)}
    text = Text(
        Tokenizer(WordLevel(words, unk_token="w0")),
        template=None,
        special={},
        mask_id=config.mask_id,
        eos_id=config.eos_id,
        source="words",
    )
    return Model(name, network, text)
