"""The learning rate over the steps, and the number of steps that fit into a time budget."""

import math

WARM_UP_STEPS = 150
# Seconds kept free at the end for the last evaluation and for writing the model.
RESERVE_S = 20.0


def learning_rate(peak: float, step: int, total: int) -> float:
    """Rise linearly, then fall along a cosine to nearly zero at the last step."""
    warm_up = max(1, min(WARM_UP_STEPS, total // 10))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    fraction = (step - warm_up) / max(1, total - warm_up)
    return peak * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction))))


def affordable(step: int, seconds_left: float, seconds_per_step: float) -> int:
    """How many steps a run can have in all when it stands at `step`."""
    return step + max(0, int((seconds_left - RESERVE_S) / seconds_per_step))
