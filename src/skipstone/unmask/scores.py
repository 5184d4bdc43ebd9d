"""What a policy chooses by: scores on the device while a run goes on, and on the host afterwards.

Shape letters: B requests, G generation length, N masks, V vocabulary, C candidates of one request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from skipstone.unmask.ranking import ranks

if TYPE_CHECKING:
    from torch import Tensor


class Need(StrEnum):
    """What a policy may ask for beside tokens and their probability, which every policy gets."""

    MARGIN = "margin"
    """The probability of the token minus that of the most probable other one."""
    ENTROPY = "entropy"
    """The entropy of the whole distribution, in nats."""
    COMMITTED = "committed"
    """Scores of committed tokens of the block too: one that is selected is replaced."""
    UNSEEN = "unseen"
    """How probable each committed token of the block is where it is not seen: one that is selected
    becomes a mask again. Beside its rows, a step computes the block once more, all masks."""
    DRIFT = "drift"
    """How far the whole distribution has moved since it was last computed: its Kullback-Leibler
    divergence from that one, in nats. All distributions of a request are kept for it."""
    LOGITS = "logits"
    """The logits of every mask that a step scores, before a token is chosen: the policy's session
    has ``weigh``, which sees them and gives those to choose by."""


REVISING = frozenset((Need.COMMITTED, Need.UNSEEN))
"""Whoever needs one of these may replace committed tokens of the block."""


@dataclass(frozen=True, eq=False)
class MaskLogits:
    """Logits of masks that a step scores, for sessions of policies with ``Need.LOGITS``."""

    logits_NV: Tensor
    """In the model's dtype; everybody's, so never to be written to."""
    request_N: Tensor
    """int64: the slot of each mask's request."""
    offset_N: Tensor
    """int64: where each mask is, counted from the end of the prompt. No mask is there twice."""
    taken_N: Tensor | None
    """bool: whose scores are taken; the others are computed in vain. None: all are."""
    mask_id: int
    """The id that is never predicted."""

    def best(self) -> tuple[Tensor, Tensor]:
        """The most probable token that may be predicted and its probability: int64, float32 [N]."""
        import torch  # the settings are read without torch

        logits_NV = self.logits_NV.to(torch.float32, copy=True)
        sum_N = logits_NV.logsumexp(-1)
        logits_NV[:, self.mask_id] = -torch.inf
        return logits_NV.argmax(-1), (logits_NV.amax(-1) - sum_N).exp()

    def take(self, index_M: Tensor) -> MaskLogits:
        """Some of the masks."""
        return replace(
            self,
            logits_NV=self.logits_NV[index_M],
            request_N=self.request_N[index_M],
            offset_N=self.offset_N[index_M],
            taken_N=None if self.taken_N is None else self.taken_N[index_M],
        )

    def at(self, kept: Tensor) -> Tensor:
        """What is kept of these masks, [N, ...] of [B, G, ...]."""
        return kept[self.request_N, self.offset_N]

    def keep(self, kept: Tensor, new: Tensor) -> None:
        """Write [N, ...] to [B, G, ...], where the scores are taken. Changes ``kept``."""
        if self.taken_N is not None:
            taken_N = self.taken_N.reshape(-1, *[1] * (new.ndim - 1))
            new = new.where(taken_N, self.at(kept))
        kept[self.request_N, self.offset_N] = new


@dataclass(frozen=True, eq=False)
class Scores:
    """What the model says about every offset of the generation region."""

    token_BG: Tensor
    """int64: the token that would be committed."""
    confidence_BG: Tensor
    """float64: its probability; -inf where nothing may be committed in this step."""
    margin: Tensor | None = None
    """See ``margin_BG``."""
    entropy: Tensor | None = None
    """See ``entropy_BG``."""
    revisable: Tensor | None = None
    """See ``revisable_BG``."""
    drift: Tensor | None = None
    """See ``drift_BG``."""

    def only(self, needs: frozenset[Need]) -> Scores:
        """The scores that a policy named in its needs."""
        return replace(
            self,
            margin=self.margin if Need.MARGIN in needs else None,
            entropy=self.entropy if Need.ENTROPY in needs else None,
            revisable=self.revisable if needs & REVISING else None,
            drift=self.drift if Need.DRIFT in needs else None,
        )

    @property
    def allowed_BG(self) -> Tensor:
        """float64: confidence of all that may be written, masks and others; -inf elsewhere."""
        if self.revisable is None:
            return self.confidence_BG
        return self.confidence_BG.maximum(self.revisable)

    @property
    def margin_BG(self) -> Tensor:
        """float64: confidence minus the probability of the runner-up; needs ``Need.MARGIN``."""
        return _asked_for(self.margin, Need.MARGIN)

    @property
    def entropy_BG(self) -> Tensor:
        """float64: entropy of the distribution, in nats; needs ``Need.ENTROPY``."""
        return _asked_for(self.entropy, Need.ENTROPY)

    @property
    def revisable_BG(self) -> Tensor:
        """float64: the token's probability where one is committed that may be replaced, else -inf.

        Needs ``Need.COMMITTED``. Where it says something, ``confidence_BG`` is -inf. With
        ``Need.UNSEEN``, that of the committed token, which a mask may replace.
        """
        return _asked_for(self.revisable, Need.COMMITTED)

    @property
    def drift_BG(self) -> Tensor:
        """float64: divergence from the distribution before, in nats; needs ``Need.DRIFT``.

        It is large where there was none before.
        """
        return _asked_for(self.drift, Need.DRIFT)


def _asked_for(table_BG: Tensor | None, need: Need) -> Tensor:
    if table_BG is None:
        raise AttributeError(
            f"{need} scores were not computed: the policy must name Need.{need.name} in its needs"
        )
    return table_BG


@dataclass(frozen=True, eq=False)
class HostScores:
    """The same for one step of one request, as a record has it: what it has that had scores."""

    offset_C: np.ndarray
    """int64: where they stand, counted from the end of the prompt; ascending."""
    token_C: np.ndarray
    """int64: the token that would be committed."""
    confidence_C: np.ndarray
    """float64: its probability; -inf where nothing may be committed in this step."""
    margin_C: np.ndarray
    """float64: confidence minus the probability of the runner-up."""
    entropy_C: np.ndarray
    """float64, in nats; NaN where the policy did not ask for it."""
    drift_C: np.ndarray
    """float64, in nats: divergence from the distribution before; NaN where nobody asked for it."""
    block: int
    """Which block the request is in, from 0."""
    step: int
    """Step within the block, from 0."""
    step_budget: int
    """Steps that are planned for the block."""
    block_length: int
    """Positions of a block that is not cut short."""
    block_start: int
    """Offset at which the block starts."""
    block_stop: int
    """Offset at which it ends."""
    masks_left: int
    """Masks in the block before this step."""
    masked: np.ndarray | None = None
    """See ``masked_G``."""
    suffix: int | None = None
    """Positions right of the block that there were in this step, at most; None: all."""
    held: np.ndarray | None = None
    """See ``held_C``."""
    revisable: np.ndarray | None = None
    """See ``revisable_C``."""
    earlier: tuple[HostScores, ...] = ()
    """The steps of this request before this one, the latest last; only of those who remember."""

    @property
    def steps_left(self) -> int:
        """Steps of the block's budget that are left, this one included; at least 1."""
        return max(1, self.step_budget - self.step)

    @property
    def masked_G(self) -> np.ndarray:
        """Bool: which new positions were masks; all of the block, where nobody says."""
        return np.ones(self.block_stop, bool) if self.masked is None else self.masked

    @property
    def masked_share(self) -> float:
        """Of masks among the block and what there was right of it in this step."""
        end = None if self.suffix is None else self.block_stop + self.suffix
        open_X = self.masked_G[self.block_start : end]
        return float(np.count_nonzero(open_X)) / max(1, open_X.size)

    def at_candidates(self, values_G: np.ndarray) -> np.ndarray:
        """What a table of all new positions says of the candidates, [C].

        Where left and right are exchanged to see how ties were broken, offsets are negative.
        """
        return values_G[np.abs(self.offset_C)]

    @property
    def held_C(self) -> np.ndarray:
        """int64: the committed token that stands there; -1 at a mask."""
        return np.full(self.token_C.shape, -1) if self.held is None else self.held

    @property
    def revisable_C(self) -> np.ndarray:
        """float64: confidence where a committed token may be replaced; -inf elsewhere."""
        if self.revisable is None:
            return np.full(self.token_C.shape, -np.inf)
        return self.revisable

    @cached_property
    def rank_C(self) -> np.ndarray:
        """int64: 0 for the most confident; equal confidence: lowest position first."""
        return ranks(self.confidence_C)

    @cached_property
    def token_before_C(self) -> np.ndarray:
        """int64: the token that could have been committed in the step before; -1: none."""
        before_C = np.full(self.token_C.shape, -1)
        for last in self.earlier[-1:]:
            open_C = last.allowed_C
            _, mine, theirs = np.intersect1d(
                self.offset_C, last.offset_C[open_C], return_indices=True
            )
            before_C[mine] = last.token_C[open_C][theirs]
        return before_C

    @property
    def allowed_C(self) -> np.ndarray:
        """Bool: where something may be committed."""
        return ~np.isneginf(self.confidence_C)
