"""The kinds of broken input, a module for each part of the product that reads any."""

from tests.fuzz.case import Kind
from tests.fuzz.kinds import arguments, checkpoints, interface, prompts, stores, templates, traces

KINDS: dict[str, Kind] = {
    kind.name: kind
    for module in (arguments, prompts, checkpoints, templates, traces, stores, interface)
    for kind in module.KINDS
}
"""By name, in the order in which they are told."""
