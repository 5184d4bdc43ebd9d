"""Sweeps: many settings over many prompts, each held against an exact baseline."""

from skipstone.sweep.grid import Setting, parse_grid
from skipstone.sweep.run import Sweep, run_sweep
from skipstone.sweep.summary import Recommendation, Summary

__all__ = ["Recommendation", "Setting", "Summary", "Sweep", "parse_grid", "run_sweep"]
