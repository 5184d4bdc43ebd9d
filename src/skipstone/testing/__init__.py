"""What tests and users share: tiny models with random weights, in memory and as checkpoints.

``notebook_model`` and ``notebook_scenario`` stand for a user's own code, with the mistakes of its
author.
"""

from skipstone.testing.checkpoint import write_checkpoint
from skipstone.testing.tiny import tiny_model

__all__ = ["tiny_model", "write_checkpoint"]
