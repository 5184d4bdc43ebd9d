"""What can be wrong with a loop around forwards that are right: tokens, order, number, region.

Each is entered around the loop alone, in every style: the loops of ``specimens/decode.py`` take
their tokens and commits from ``choose``, and their numbers from ``share_of``.

Shape letters: B batch (1), R rows of the call, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from faults.engine.instead import Fault, instead
from faults.foreign_code import Job, Loop
from skipstone.diagnosis.loop.number import shares
from skipstone.testing.tiny import EOS, MASK
from specimens import decode

Confidence = Callable[[Tensor, Tensor], Tensor]
"""From logits [B, R, V] and tokens [B, R] to what the order goes by [B, R]."""


def probability(logits: Tensor, token: Tensor, dim: int = -1) -> Tensor:
    """The probability of the tokens, in float64."""
    shares = logits.double().softmax(dim)
    return shares.gather(-1, token.unsqueeze(-1)).squeeze(-1)


def chosen_by(
    confidence: Confidence,
    *,
    change: Callable[[Tensor], Tensor] = lambda logits: logits,
    draw: Callable[[Tensor], Tensor] = lambda logits: logits.argmax(-1),
    strict: bool = False,
    bound: float | None = None,
) -> Fault:
    """Another ``choose``.

    Args:
        confidence: what the order goes by.
        change: what is done to the logits before anything else.
        draw: tokens [B, R] from logits.
        strict: a threshold must be passed, not reached.
        bound: a threshold that is compared with in place of the one that was asked for.
    """

    def wrong(
        logits: Tensor,
        masked: Tensor,
        mask_id: int,
        share: int,
        threshold: float | None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        logits = change(logits.clone())
        possible = logits.clone()
        possible[..., mask_id] = -torch.inf
        token = draw(possible)
        value = confidence(logits, token).masked_fill(~masked, -torch.inf)
        order = value.argsort(dim=-1, descending=True, stable=True)
        asked = threshold if bound is None or threshold is None else bound
        commit = torch.zeros_like(masked)
        for i, row in enumerate(order[0].tolist()):
            at = value[0, row]
            enough = (
                i < share if asked is None else i == 0 or (at > asked if strict else at >= asked)
            )
            commit[0, row] = bool(enough and masked[0, row])
        return token, commit

    return lambda: instead(decode, "choose", wrong)


def over_positions() -> AbstractContextManager[object]:
    """The softmax is taken over the rows of the call."""
    return chosen_by(lambda logits, token: probability(logits, token, 1))()


def by_margin() -> AbstractContextManager[object]:
    """The order goes by the distance to the second token."""

    def margin(logits: Tensor, token: Tensor) -> Tensor:
        shares = logits.double().softmax(-1)
        shares[..., MASK] = 0
        top = shares.topk(2, dim=-1).values
        return top[..., 0] - top[..., 1]

    return chosen_by(margin)()


def by_entropy() -> AbstractContextManager[object]:
    """The order goes by the entropy."""

    def certainty(logits: Tensor, token: Tensor) -> Tensor:
        shares = logits.double().softmax(-1)
        return (shares * (shares + 1e-10).log()).sum(-1)

    return chosen_by(certainty)()


def by_chance() -> AbstractContextManager[object]:
    """The order is random."""
    generator = torch.Generator().manual_seed(3)

    def drawn(logits: Tensor, token: Tensor) -> Tensor:
        return torch.rand(token.shape, generator=generator, dtype=torch.float64)

    return chosen_by(drawn)()


def from_the_left() -> AbstractContextManager[object]:
    """The order is that of the positions."""

    def place(logits: Tensor, token: Tensor) -> Tensor:
        return -torch.arange(token.shape[1]).double().expand(token.shape)

    return chosen_by(place)()


def eos_suppressed() -> AbstractContextManager[object]:
    """EOS is never proposed."""

    def change(logits: Tensor) -> Tensor:
        logits[..., EOS] = -torch.inf
        return logits

    return chosen_by(probability, change=change)()


def eos_raised() -> AbstractContextManager[object]:
    """The logit of EOS is raised."""

    def change(logits: Tensor) -> Tensor:
        logits[..., EOS] += 4.0
        return logits

    return chosen_by(probability, change=change)()


def shifted() -> AbstractContextManager[object]:
    """Every position takes the logits of the row before it."""

    def change(logits: Tensor) -> Tensor:
        return torch.cat([logits[:, :1], logits[:, :-1]], dim=1)

    return chosen_by(probability, change=change)()


def warm() -> AbstractContextManager[object]:
    """Tokens are drawn at temperature 1."""
    generator = torch.Generator().manual_seed(5)

    def draw(logits: Tensor) -> Tensor:
        noise = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
        return (logits.double() - (-noise.log()).log()).argmax(-1)

    return chosen_by(probability, draw=draw)()


def strictly_above() -> AbstractContextManager[object]:
    """A confidence must pass the threshold."""
    return chosen_by(probability, strict=True)()


def threshold_of(value: float) -> Fault:
    """Another threshold is compared with than was asked for."""
    return chosen_by(probability, bound=value)


def least_probable() -> AbstractContextManager[object]:
    """The order goes by probability, with the sign turned."""
    return chosen_by(lambda logits, token: -probability(logits, token))()


@contextmanager
def one_too_many() -> Generator[None]:
    """A step commits one more than its share."""
    share_of = decode.share_of

    def wrong(canvas: Tensor, start: int, stop: int, mask_id: int, steps_left: int) -> int:
        return share_of(canvas, start, stop, mask_id, steps_left) + 1

    with instead(decode, "share_of", wrong):
        yield


def in_three_steps(loop: Loop, *, remainder_last: bool) -> Loop:
    """A loop whose blocks take three steps; what does not divide goes to the first, or the last."""

    def decoded(net: nn.Module, job: Job) -> object:
        def share(canvas: Tensor, start: int, stop: int, mask_id: int, steps_left: int) -> int:
            left, size = int((canvas[:, start:stop] == mask_id).sum()), stop - start
            plan = shares("remainder last" if remainder_last else "remainder first", size, 3)
            ends = np.cumsum(plan).tolist()
            return plan[ends.index(size - left) + 1 if left < size else 0]

        with instead(decode, "share_of", share):
            return loop(net, job)

    return decoded


@torch.no_grad()
def beyond_the_block(net: nn.Module, job: Job) -> Tensor:
    """No cache; the best masks of the whole canvas are committed, whatever the block."""
    canvas = decode.start_canvas(job.ids, job.gen_length, job.mask_id)
    for start, stop in decode.blocks(job.ids, job.gen_length, job.block_length):
        step = 0
        while (canvas[:, start:stop] == job.mask_id).any():
            out = net(canvas)
            logits = out if isinstance(out, Tensor) else out.logits
            share = decode.share_of(canvas, start, stop, job.mask_id, stop - start - step)
            masked = canvas == job.mask_id
            token, commit = decode.choose(logits, masked, job.mask_id, share, job.threshold)
            canvas = torch.where(commit, token, canvas)
            step += 1
    return canvas
