"""Where in a model rows leave, and how many go on.

Without torch, as the settings are.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from skipstone.checks import number
from skipstone.errors import ConfigError
from skipstone.quoting import shown

CONFIDENT = 2
"""So many of the most confident masks go on, and so many rows more than were committed last."""
TINY = 1e-6
"""What a state's size is at least."""


class Stage(NamedTuple):
    """After one layer, rows leave."""

    layer: int
    """Counted from 1; it is computed for all that came so far."""
    ratio: float
    """Of the rows that entered the first layer, so many go on."""


def stages_of(text: str, num_layers: int) -> tuple[Stage, ...]:
    """The stages of ``ratio@depth+ratio@depth`` in a model of so many layers.

    Raises:
        ConfigError: rows would leave after the last layer, or the text is no list of stages.
    """
    found = dict[int, float]()
    for ratio, depth in parsed(text):
        layer = next((i + 1 for i in range(num_layers) if i >= depth * num_layers), num_layers)
        found[layer] = ratio
    if max(found) >= num_layers:
        raise ConfigError(
            f"ratio keep is {shown(text)}: rows would leave after layer {num_layers}, the last of "
            f"this model; use depths up to {max(0.0, 1 - 2 / num_layers):g}"
        )
    return tuple(Stage(layer, ratio) for layer, ratio in sorted(found.items()))


def parsed(text: str) -> list[tuple[float, float]]:
    """Ratio and depth of each stage.

    Raises:
        ConfigError: it is no list of stages whose ratios fall and whose depths rise.
    """
    rule = "must be stages like 0.5@0.125+0.25@0.25: the part that goes on, @ and the depth"
    found = list[tuple[float, float]]()
    for stage in text.split("+"):
        try:
            ratio, depth = map(number, stage.split("@"))
        except ValueError:
            raise ConfigError(f"ratio keep is {shown(text)}, {rule}") from None
        if not (0.0 < ratio < 1.0 and 0.0 <= depth < 1.0):
            raise ConfigError(f"ratio keep is {shown(text)}, {rule}, both between 0 and 1")
        found.append((ratio, depth))
    if any(a[0] <= b[0] or a[1] >= b[1] for a, b in pairwise(found)):
        raise ConfigError(f"ratio keep is {shown(text)}: deeper down, fewer must go on")
    return found
