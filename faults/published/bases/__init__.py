"""The code bases: how each is imported, what a tiny model of it is, how its loops are called."""

from __future__ import annotations

from faults.published.bases.fast_dllm import FAST_DLLM

BASES = {base.name: base for base in (FAST_DLLM,)}
