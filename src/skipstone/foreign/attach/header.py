"""What is the same for all steps of a foreign run: its header."""

from __future__ import annotations

import platform

import torch
from torch import nn

from skipstone.foreign.attach.chance import DrawnNumbers, generators
from skipstone.foreign.attach.forward import Forward
from skipstone.foreign.attach.given import configuration
from skipstone.foreign.attach.run import ForeignRun
from skipstone.foreign.attach.wanted import Wanted
from skipstone.foreign.attach.weights import fingerprints
from skipstone.record import LOOP_WAS_GIVEN, RANDOM_CALLS, WITHIN, Header
from skipstone.tracing.record.recorder import environment
from skipstone.version import __version__


def header_of(
    model: nn.Module,
    first_layer: nn.Module,
    wanted: Wanted,
    done: Forward,
    run: ForeignRun,
    keys: str,
    drawn: DrawnNumbers,
) -> Header:
    """The header of a run; prompt, length and sample are filled in by the run.

    Args:
        model: the foreign model.
        first_layer: one of its layers, whose device is the run's.
        wanted: what ``attach`` was asked for.
        done: the first call, which has shown width, vocabulary and dtype.
        run: knows what the calls and the loop were given.
        keys: how cached keys are kept, as ``kind_of_keys`` says.
        drawn: random numbers of the first decision.
    """
    device = next(first_layer.parameters()).device
    # Where random numbers stood before and after the first decision.
    chance = run.chance, generators(device)
    return Header(
        model=type(model).__name__,
        num_layers=wanted.num_layers,
        width=done.width,
        vocab_size=done.vocab_size,
        mask_id=wanted.mask_id,
        eos_id=wanted.eos_id,
        dtype=str(done.dtype).removeprefix("torch."),
        device=str(device),
        settings=dict(run.settings),
        prompt_ids=(),
        gen_length=0,
        versions={
            "skipstone": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        source=wanted.function_name or run.function_name,
        environment=environment()
        | {"keys": keys, "called at": run.source, LOOP_WAS_GIVEN: " ".join(sorted(run.loop_names))}
        | {f"{WITHIN}{name}": text for name, text in run.within.items()}
        | dict(zip(("random before", "random after"), chance, strict=True))
        | {RANDOM_CALLS: drawn.said}
        | configuration(model),
        stated=wanted.stated,
        tensors=fingerprints(model),
    )
