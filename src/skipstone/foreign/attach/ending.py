"""What is said when a run is over: what was found, what it cost, or why there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence

from torch import nn

from skipstone.foreign.attach.cost import measuring_cost, skip_cost
from skipstone.foreign.attach.run import ForeignRun
from skipstone.foreign.positions.evidence import Findings
from skipstone.record import Event


def sanitized(
    findings: Findings, disagreed: Collection[str], first_call: int, calls: int
) -> Iterator[Event]:
    """What the sanitizer found in the calls of this run, once: it is taken out of ``findings``.

    Args:
        findings: of all runs; its calls are counted over all of them.
        disagreed: lines of which the run itself says that a call contradicts its ids.
        first_call: of this run.
        calls: how many there were so far; later findings belong to the next run.
    """
    for (kind, source), event in tuple(findings.found.items()):
        if event.forward >= calls:
            continue
        del findings.found[kind, source]
        findings.tallies.pop(source, None)
        if source not in disagreed:
            yield dataclasses.replace(event, forward=max(-1, event.forward - first_call))


def costs(run: ForeignRun, layers: Sequence[nn.Module], *, sanitized: bool) -> Iterator[Event]:
    """What the loop spent on measuring and on skipping.

    Args:
        run: the run that is over.
        layers: of the model.
        sanitized: whether its rows were followed, which costs more than what is measured here.
    """
    if not sanitized:
        yield from measuring_cost(run.clock)
    if run.calls_that_may_skip or run.skipped_row_layers:
        found = skip_cost(layers, run.partial_rows, run.skipped_row_layers, run.calls_that_may_skip)
        if found is not None:
            yield dataclasses.replace(found, source=run.source)


def nothing_recorded(model: nn.Module, said: Sequence[Event], calls: int) -> str:
    """Why nothing of a model was recorded.

    Args:
        model: what was attached.
        said: what went wrong, if anything did.
        calls: of the model.
    """
    if said:
        why = said[0].message
    elif calls:
        why = "no call told its canvas"
    else:
        why = (
            "the attached module was never called; attach to the module that the loop calls, or "
            "to one within it"
        )
    return f"nothing of {type(model).__name__} was recorded: {why}"
