"""What an entry of the table is: everything that makes one architecture different from the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from skipstone.models.base import ModelConfig, Network
from skipstone.models.example import Example
from skipstone.models.fields import Fields
from skipstone.models.guide import Guide
from skipstone.models.keys import Keys
from skipstone.models.names import WeightNames
from skipstone.models.parts.decoder import Decoder, shapes


@dataclass(frozen=True)
class Architecture:
    """How a published class is read and built."""

    name: str
    """The class, as ``architectures`` in config.json has it."""
    model_type: str
    """As config.json has it beside the class."""
    title: str
    """What people call it."""
    keys: Keys
    """Which keys of config.json it reads."""
    read: Callable[[Fields], ModelConfig]
    """Its shape, special ids, and how far rows see; raises ``CheckpointError``."""
    names: WeightNames
    """What the files call its weights."""
    guide: Guide
    """What people should know of it."""
    example: Example
    """A tiny model of it in its published layout."""
    stop_tokens: tuple[str, ...] = ()
    """Special tokens that end an answer as EOS does, where its tokenizer has them."""

    needs_name: bool = False
    """Whether models of other classes have its ``model_type``, so that a file must name the
    class."""

    def build(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Network:
        """A network with uninitialised weights.

        Raises:
            RuntimeError: there is no memory for it.
        """
        return Decoder(config, self.names, dtype, device)

    def shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Names and shapes that a checkpoint must have; allocates nothing."""
        return shapes(config, self.names)

    def tied(self, config: ModelConfig) -> dict[str, str]:
        """Names that a file may have beside those, each with the name of the same weight."""
        outer = self.names.outer
        return {outer["head"]: outer["embedding"]} if config.tied_head else {}
