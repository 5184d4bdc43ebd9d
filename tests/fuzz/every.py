"""All kinds of broken input."""

from __future__ import annotations

from tests.fuzz import corpus
from tests.fuzz.case import Kind
from tests.fuzz.kinds import arguments, checkpoints, interface, prompts, stores, templates, traces

MODULES = (corpus, arguments, prompts, checkpoints, templates, traces, stores, interface)

KINDS: dict[str, Kind] = {kind.name: kind for module in MODULES for kind in module.KINDS}
"""By name, in the order in which they are told."""
