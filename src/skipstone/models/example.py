"""A tiny model of an architecture as its checkpoints are published, for tests to write and open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NUM_BYTES, VOCAB = 256, 264
"""Ids of a tiny tokenizer: one for each byte, then special tokens, then some that no token has."""


@dataclass(frozen=True)
class Example:
    """What its files hold beside the weights."""

    config: Mapping[str, object]
    """config.json."""
    special: Mapping[str, int]
    """Special tokens by their published text, and their ids; bytes have those that are left."""
    named: Mapping[str, str]
    """What tokenizer_config.json calls them: ``eos_token`` and others."""
    template: str | None = None
    """Its chat template; None if none was published, or it is not known."""
    generation: Mapping[str, object] = field(default_factory=dict)
    """generation_config.json; empty if none is published."""
