"""The closed world that pebble learns: facts, word problems, lists and chained arithmetic."""

from pebble.world.problem import Problem
from pebble.world.split import GROUPS, draw, heldout

__all__ = ["GROUPS", "Problem", "draw", "heldout"]
