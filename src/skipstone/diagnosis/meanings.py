"""What the arguments of published loops do, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Acts = Literal["forward", "decision", "anything"]
"""What an argument can change first: states and scores, commits only, or whatever there is."""


@dataclass(frozen=True)
class Meaning:
    """What an argument does."""

    rule: str
    number: int
    acts: Acts


INPUTS = Meaning("other-inputs", 28, "anything")
COMMIT = Meaning("commit-rule", 31, "decision")
_SAMPLER = Meaning("sampler", 22, "decision")
_REGIONS = Meaning("region-boundaries", 16, "anything")
_SCHEDULE = Meaning("schedule", 24, "decision")
_STOP = Meaning("stop-rule", 21, "decision")
_POSITIONS = Meaning("position-encoding", 14, "forward")
_ORDER = Meaning("reveal-order", 10, "decision")
_SKIP = Meaning("stale-skipped-state", 12, "forward")

MEANINGS = {
    "attention_mask": Meaning("visible-set", 15, "forward"),
    "attention_bias": Meaning("visible-set", 15, "forward"),
    "position_ids": _POSITIONS,
    "cache_position": _POSITIONS,
    "replace_position": Meaning("wrong-cache-row", 13, "forward"),
    "config.rope_theta": _POSITIONS,
    "threshold": COMMIT,
    "confidence_threshold": COMMIT,
    "factor": COMMIT,
    "mask_id": COMMIT,
    "mask_token_id": COMMIT,
    "temperature": _SAMPLER,
    "top_p": _SAMPLER,
    "top_k": _SAMPLER,
    "seed": _SAMPLER,
    "cfg_scale": Meaning("sampler", 22, "forward"),
    "remasking": _ORDER,
    "remasking_strategy": _ORDER,
    "alg": _ORDER,
    "alg_temp": _ORDER,
    "block_length": _REGIONS,
    "block_size": _REGIONS,
    "gen_length": _REGIONS,
    "max_new_tokens": _REGIONS,
    "steps": _SCHEDULE,
    "denoising_steps": _SCHEDULE,
    "diffusion_steps": _SCHEDULE,
    "num_steps": _SCHEDULE,
    "steps_per_block": _SCHEDULE,
    "eos_id": _STOP,
    "eos_token_id": _STOP,
    "early_stop": _STOP,
    "skip_layer_k": _SKIP,
    "skip_threshold": _SKIP,
    "skip_outlier": _SKIP,
}
"""What arguments of published loops do, by name; of fields of objects, by the last of their names.

Another tensor, or value of a configuration, is an input of the forward; another plain argument may
be anything, such as the name of the run, and is a cause only where the loop itself was given it and
nothing else explains what differs.
"""


def meaning_of(name: str) -> Meaning | None:
    """What an argument does, or a field of one; None if that is not known."""
    if name in MEANINGS or name.startswith("config."):
        return MEANINGS.get(name)
    last = name.rpartition(".")[2]
    return MEANINGS.get(last) or MEANINGS.get(f"config.{last}")
