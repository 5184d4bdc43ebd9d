"""What a choice costs by itself: from the final states of a block to what is committed.

Everything is the engine's own: the head, token and confidence of each mask, the other scores that a
policy needs, and its choice. The head is the same for all, so differences are the policy's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from skipstone.bench.timing import wait
from skipstone.engine import Engine, Settings
from skipstone.engine.observe import Taps
from skipstone.models.load import Model
from skipstone.unmask import UnmaskPolicy

_PROFILED = 20


@dataclass(frozen=True)
class Choice:
    """One policy at one batch size, in milliseconds a step."""

    policy: str
    batch: int
    ms: float
    """Median of a step whose operations are launched while the device waits."""
    device_ms: float | None
    """The device's own time for it, without the gaps between operations; None on a CPU."""
    beyond_ms: float = 0.0
    """``ms`` beyond that of the threshold."""
    beyond_device_ms: float | None = None
    """``device_ms`` beyond that of the threshold."""


@torch.inference_mode()
def chosen(
    model: Model, policy: UnmaskPolicy, name: str, prompts: Sequence[list[int]], repeats: int
) -> Choice:
    """Time the choice of a policy over a block of masks, one in each request."""
    decide, device = _choice(model, policy, prompts), model.network.device
    for _ in range(3):
        decide()
    samples = [_milliseconds(decide, device) for _ in range(repeats)]
    own = _device_ms(decide) if device.type == "cuda" else None
    return Choice(name, len(prompts), statistics.median(samples), own)


def beyond(choices: Sequence[Choice], name: str) -> list[Choice]:
    """All of them, held against the one of this name at the same batch size."""
    found = list[Choice]()
    for one in choices:
        (base,) = (c for c in choices if c.policy == name and c.batch == one.batch)
        own = None
        if one.device_ms is not None and base.device_ms is not None:
            own = one.device_ms - base.device_ms
        found.append(Choice(one.policy, one.batch, one.ms, one.device_ms, one.ms - base.ms, own))
    return found


def _choice(
    model: Model, policy: UnmaskPolicy, prompts: Sequence[list[int]]
) -> Callable[[], object]:
    """The choice of the second step of a block, of which nothing is committed."""
    settings = Settings(
        unmask=policy, cache="dual", gen_length=128, block_length=32, eos_stop=False
    )
    batch = Engine(model, settings).start(prompts, batch_size=len(prompts)).batch
    first = batch.context(batch.states)
    assert first is not None
    second = first.later()
    for context in (first, second):
        rows = batch.rows(context)
        done = batch.forward(rows, context, fresh=(), taps=Taps())
        batch.scorer.score(
            done, context, batch.host, weighing=batch.weighing(context), want_logits=False
        )

    def decide() -> object:
        weighing = batch.weighing(second)
        batch.scorer.score(done, second, batch.host, weighing=weighing, want_logits=False)
        return batch.select(batch.scorer.eligible(done, rows, second), second)

    return decide


def _milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """From the first launch to the end of the last operation."""
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return 1e3 * (time.perf_counter() - started)


def _device_ms(work: Callable[[], object]) -> float:
    """What all operations take on the device, together; mean of some steps."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(_PROFILED):
            work()
        torch.cuda.synchronize()
    spent = sum(event.self_device_time_total for event in profile.key_averages())
    return spent / 1e3 / _PROFILED
