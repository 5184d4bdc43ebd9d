"""How a request takes a token from a distribution: what it draws with, and what it cuts off.

Shape letters: N packed rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from skipstone.engine.settings import Settings
from skipstone.ops.decide import dispatch as ops


@dataclass(frozen=True, eq=False)
class Sampling:
    """Of one request, from its first step to its last."""

    temperature: float
    top_p: float | None
    top_k: int | None
    generator: torch.Generator | None
    """None if nothing is drawn."""

    @classmethod
    def of(cls, settings: Settings, device: torch.device) -> Sampling:
        """As the settings of a request say; its draws begin anew."""
        generator = None
        if settings.temperature > 0:
            generator = torch.Generator(device).manual_seed(settings.seed or 0)
        return cls(settings.temperature, settings.top_p, settings.top_k, generator)

    @property
    def cuts(self) -> bool:
        """Whether tokens are left out, and the scores are those of what is left."""
        return self.top_p is not None or self.top_k is not None

    @property
    def kind(self) -> tuple[bool, bool]:
        """Whether it draws and whether it cuts; rows of one kind are scored together."""
        return self.generator is not None, self.cuts

    def noise(self, rows: int, vocab: int) -> Tensor | None:
        """Gumbel noise for logits: float64 [rows, vocab]; None if nothing is drawn.

        Cut logits are divided by the temperature; to others, noise times temperature is added.
        """
        generator = self.generator
        if generator is None:
            return None
        uniform_NV = torch.rand(
            (rows, vocab), generator=generator, dtype=torch.float64, device=generator.device
        )
        scale = 1.0 if self.cuts else self.temperature
        return -scale * torch.log(-torch.log(uniform_NV))

    def cut(self, rows: int) -> ops.Cut | None:
        """Which tokens are possible in ``rows`` rows; None if all are."""
        if not self.cuts:
            return None
        return ops.Cut(rows, self.temperature or 1.0, self.top_p, self.top_k)
