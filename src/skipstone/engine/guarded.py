"""Code of policies, which may be anybody's: what it raises ends the requests that asked for it."""

from __future__ import annotations

import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from skipstone import policies
from skipstone.errors import PolicyError, SkipstoneError
from skipstone.unmask import UnmaskPolicy

_ENDS = "the requests that share it end, and no others"


@contextmanager
def guarded(policy: UnmaskPolicy) -> Generator[None]:
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


def _named(policy: UnmaskPolicy) -> str:
    return f"the unmask policy {policies.UNMASK.spell(policy, brief=True)}"
