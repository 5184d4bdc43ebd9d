"""The table of architectures: the only place that knows which there are."""

from __future__ import annotations

import torch

from skipstone.models.architecture import Architecture
from skipstone.models.base import ModelConfig, Network
from skipstone.models.dream import DREAM
from skipstone.models.illada import ILLADA
from skipstone.models.llada import LLADA
from skipstone.models.llada2 import LLADA2
from skipstone.models.llada_moe import LLADA_MOE
from skipstone.models.sdar import SDAR
from skipstone.models.stable_diffcoder import STABLE_DIFFCODER

ARCHITECTURES: dict[str, Architecture] = {
    entry.name: entry for entry in (LLADA, ILLADA, DREAM, SDAR, STABLE_DIFFCODER, LLADA_MOE, LLADA2)
}
"""Entries by the name of the published class."""


def entry_of(config: ModelConfig) -> Architecture:
    """The entry that a config was read by."""
    return ARCHITECTURES[config.architecture]


def build(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Network:
    """A network with uninitialised weights.

    Args:
        config: its shape.
        dtype: of weights and states.
        device: where they live.

    Raises:
        RuntimeError: there is no memory for it.
    """
    return entry_of(config).build(config, dtype, device)
