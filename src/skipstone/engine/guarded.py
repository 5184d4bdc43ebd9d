"""Code of policies, which may be anybody's: what it raises ends the requests that asked for it."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from skipstone import policies
from skipstone.cache import CachePolicy
from skipstone.canvas import StepContext
from skipstone.errors import PolicyError, SkipstoneError
from skipstone.rows import Rows
from skipstone.unmask import UnmaskPolicy

Failed = dict[int, SkipstoneError]
"""Slots whose policy failed, and how."""

_ENDS = "the requests that share it end, and no others"


@contextmanager
def noting(
    failed: Failed, policy: UnmaskPolicy | CachePolicy, slots: Iterable[int]
) -> Generator[None]:
    """Within it, code of a policy runs; its error is noted in ``failed`` for the slots."""
    try:
        with guarded(policy):
            yield
    except SkipstoneError as error:
        failed.update(dict.fromkeys(slots, error))


@contextmanager
def guarded(policy: UnmaskPolicy | CachePolicy) -> Generator[None]:
    """Within it, code of a policy runs.

    Raises:
        PolicyError: it raised what was not meant for the user.
    """
    try:
        yield
    except SkipstoneError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise PolicyError(
            f"{_named(policy)} raised {said} ({Path(frame.filename).name}:{frame.lineno}); {_ENDS}"
        ) from error


def checked_choice(policy: UnmaskPolicy, chosen_BG: Tensor, like_BG: Tensor) -> Tensor:
    """What a policy chose, if it is bool [B, G].

    Raises:
        PolicyError: it is something else.
    """
    if not isinstance(chosen_BG, Tensor):
        given = type(chosen_BG).__name__
    elif chosen_BG.dtype == torch.bool and chosen_BG.shape == like_BG.shape:
        return chosen_BG
    else:
        given = f"{chosen_BG.dtype} {list(chosen_BG.shape)}".removeprefix("torch.")
    raise PolicyError(
        f"{_named(policy)} selects {given}, must be bool {list(like_BG.shape)}; {_ENDS}"
    )


def checked_logits(policy: UnmaskPolicy, logits_NV: Tensor, like_NV: Tensor) -> Tensor:
    """What a policy weighed, if it is [N, V] in the dtype it was given, float32 or float64.

    Raises:
        PolicyError: it is something else.
    """
    if not isinstance(logits_NV, Tensor):
        given = type(logits_NV).__name__
    elif (
        logits_NV.dtype in (like_NV.dtype, torch.float32, torch.float64)
        and logits_NV.shape == like_NV.shape
    ):
        return logits_NV
    else:
        given = f"{logits_NV.dtype} {list(logits_NV.shape)}".removeprefix("torch.")
    raise PolicyError(
        f"{_named(policy)} gives {given} for logits, must be float32 {list(like_NV.shape)}; {_ENDS}"
    )


def checked_rows(policy: CachePolicy, rows: Rows, context: StepContext) -> Rows:
    """The rows that a policy names, if there are some of every request it was asked about.

    Raises:
        PolicyError: it is something else.
    """
    check_rows(policy, rows)
    if sorted(rows.requests) != sorted(context.active):
        raise PolicyError(
            f"{_named(policy)} names rows of slots {list(rows.requests)}, must be some of each of "
            f"{list(context.active)}; {_ENDS}"
        )
    return rows


def checked_visible(
    policy: CachePolicy, visible_YBL: Tensor | None, shape: tuple[int, ...]
) -> Tensor | None:
    """What a policy lets rows see, if it is bool [Y, B, L], or None.

    Raises:
        PolicyError: it is something else.
    """
    if visible_YBL is None:
        return None
    if not isinstance(visible_YBL, Tensor):
        given = type(visible_YBL).__name__
    elif visible_YBL.dtype == torch.bool and visible_YBL.shape == shape:
        return visible_YBL
    else:
        given = f"{visible_YBL.dtype} {list(visible_YBL.shape)}".removeprefix("torch.")
    raise PolicyError(
        f"{_named(policy)} lets rows see {given}, must be bool {list(shape)}: layers, requests, "
        f"positions; {_ENDS}"
    )


def check_rows(policy: CachePolicy, rows: object) -> None:
    """Refuse what a policy gives in place of rows.

    Raises:
        PolicyError: it is something else.
    """
    if not isinstance(rows, Rows):
        raise PolicyError(
            f"{_named(policy)} names rows with {type(rows).__name__}, must be Rows, as "
            f"context.rows_at makes them; {_ENDS}"
        )


def _named(policy: UnmaskPolicy | CachePolicy) -> str:
    kind = policies.CACHE if isinstance(policy, CachePolicy) else policies.UNMASK
    return f"the {kind.name} policy {kind.spell(policy, brief=True)}"
