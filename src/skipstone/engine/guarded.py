"""Code of policies, which may be anybody's: what it raises ends the requests that asked for it."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from skipstone import policies
from skipstone.cache import CachePolicy
from skipstone.canvas import StepContext
from skipstone.errors import PolicyError, SkipstoneError
from skipstone.quoting import in_words
from skipstone.rows import Rows
from skipstone.skip import SkipPolicy
from skipstone.unmask import UnmaskPolicy

Policy = UnmaskPolicy | CachePolicy | SkipPolicy

Failed = dict[int, SkipstoneError]
"""Slots whose policy failed, and how."""

_ENDS = "the requests that share it end, and no others"


@contextmanager
def noting(failed: Failed, policy: Policy, slots: Iterable[int]) -> Generator[None]:
    """Within it, code of a policy runs; its error is noted in ``failed`` for the slots."""
    try:
        with guarded(policy):
            yield
    except SkipstoneError as error:
        failed.update(dict.fromkeys(slots, error))


@contextmanager
def guarded(policy: Policy) -> Generator[None]:
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
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        raise PolicyError(f"{named(policy)} raised {in_words(error)} ({where}); {_ENDS}") from error


def checked_choice(policy: UnmaskPolicy, chosen_BG: Tensor, like_BG: Tensor) -> Tensor:
    """What a policy chose, if it is bool [B, G].

    Raises:
        PolicyError: it is something else.
    """
    if not _is(chosen_BG, (torch.bool,), like_BG.shape, like_BG.device):
        wanted = f"bool {list(like_BG.shape)} on {like_BG.device}"
        raise PolicyError(f"{named(policy)} selects {_told(chosen_BG)}, must be {wanted}; {_ENDS}")
    return chosen_BG


def checked_logits(policy: UnmaskPolicy, logits_NV: Tensor, like_NV: Tensor) -> Tensor:
    """What a policy weighed, if it is [N, V] in the dtype it was given, float32 or float64.

    Raises:
        PolicyError: it is something else.
    """
    dtypes = (like_NV.dtype, torch.float32, torch.float64)
    if not _is(logits_NV, dtypes, like_NV.shape, like_NV.device):
        raise PolicyError(
            f"{named(policy)} gives {_told(logits_NV)} for logits, must be float32 "
            f"{list(like_NV.shape)} on {like_NV.device}; {_ENDS}"
        )
    return logits_NV


def checked_kept(policy: SkipPolicy, kept_N: Tensor, x_ND: Tensor, layer: int) -> Tensor:
    """Which rows a policy lets go on after a layer, if it is bool [N].

    Raises:
        PolicyError: it is something else.
    """
    if not _is(kept_N, (torch.bool,), x_ND.shape[:1], x_ND.device):
        raise PolicyError(
            f"{named(policy)} keeps {_told(kept_N)} after layer {layer}, must be bool "
            f"{list(x_ND.shape[:1])} on {x_ND.device}; {_ENDS}"
        )
    return kept_N


def checked_rows(policy: CachePolicy, rows: Rows, context: StepContext) -> Rows:
    """The rows that a policy names, if there are some of every request it was asked about.

    Raises:
        PolicyError: it is something else.
    """
    check_rows(policy, rows)
    if sorted(rows.requests) != sorted(context.active):
        raise PolicyError(
            f"{named(policy)} names rows of slots {list(rows.requests)}, must be some of each of "
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
    if visible_YBL is not None and not _is(visible_YBL, (torch.bool,), shape):
        raise PolicyError(
            f"{named(policy)} lets rows see {_told(visible_YBL)}, must be bool {list(shape)}: "
            f"layers, requests, positions; {_ENDS}"
        )
    return visible_YBL


def check_rows(policy: CachePolicy, rows: object) -> None:
    """Refuse what a policy gives in place of rows.

    Raises:
        PolicyError: it is something else.
    """
    if not isinstance(rows, Rows):
        raise PolicyError(
            f"{named(policy)} names rows with {type(rows).__name__}, must be Rows, as "
            f"context.rows_at makes them; {_ENDS}"
        )


def _is(
    given: object,
    dtypes: Sequence[torch.dtype],
    shape: tuple[int, ...],
    device: torch.device | None = None,
) -> bool:
    """Whether it is a tensor of one of these dtypes, of this shape, on this device if any."""
    return (
        isinstance(given, Tensor)
        and given.dtype in dtypes
        and given.shape == shape
        and device in (None, given.device)
    )


def _told(given: object) -> str:
    """What was given, in words: its type, or dtype, shape and device of a tensor."""
    if not isinstance(given, Tensor):
        return type(given).__name__
    return f"{given.dtype} {list(given.shape)} on {given.device}".removeprefix("torch.")


def named(policy: Policy) -> str:
    """A policy as errors name it: ``the unmask policy threshold:value=0.8``."""
    kind = next(kind for kind in policies.KINDS if isinstance(policy, kind.contract))
    return f"the {kind.name} policy {kind.spell(policy, brief=True)}"
