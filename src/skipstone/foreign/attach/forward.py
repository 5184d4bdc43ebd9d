"""What the hooks of a foreign model see during one call.

Shape letters: B batch, N rows of the call, M rows that are still going, D width, V vocabulary,
C rows that are masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from skipstone.foreign.attach.picks import Pick
from skipstone.foreign.attach.seen import Scores, Seen
from skipstone.foreign.attach.wanted import AttachLevel
from skipstone.foreign.rows.locate import Located
from skipstone.foreign.shared.caches import key_values
from skipstone.ops import reference as ops
from skipstone.record import Tap, TensorKey
from skipstone.record.sketch import pack, sketch
from skipstone.tracing.recorder import to_numpy

Rowed = dict[TensorKey, tuple[np.ndarray, np.ndarray]]
"""Positions and values by tensor."""

# Bounds the float64 copy of the logits: rows beyond this many bytes are scored in pieces.
_PIECE_BYTES = 256 << 20
# Logits of one call and one request that are kept whole.
_LOGITS_BYTES = 256 << 20


class Forward:
    """Collects one call, layer by layer."""

    def __init__(
        self,
        number: int,
        located: Located,
        rows: int,
        given: Sequence[tuple[Tensor, Tensor]],
        level: AttachLevel,
    ) -> None:
        """A call begins.

        Args:
            number: of the call.
            located: where its rows stand.
            rows: how many there are.
            given: keys and values of each layer in the cache that was passed.
            level: which states, keys, values and logits are wanted.
        """
        self.number = number
        self.placed = located.placed
        self.before_BL = located.canvas_BL
        self.samples = located.samples
        self.unseen = ""
        """What the call did not show, and why."""
        self.keeps = False
        self.skip_layer = 0
        self.width = 0
        self.vocab_size = 0
        self.dtype: torch.dtype | None = None
        self.rows_lost = ""
        self._rows = rows
        self._given = given
        self._ids_BN = located.ids_BN
        self._found = located.placed.positions_BN.shape[1] == rows
        # Rows that could not be located have no place to be recorded at.
        self._states = level != "decisions" and self._found
        self._others = level in ("window", "full") and self._found
        self._sketched = level == "sketches"
        batch = len(located.canvas_BL)
        self._going = [np.arange(rows if self._found else 0) for _ in range(batch)]
        self._depth = self._entered = 0
        self._last_BMD: Tensor | None = None
        self._rowed = [Rowed() for _ in range(batch)]
        self._logits = list[Tensor]()
        self._scores = [_no_scores() for _ in range(batch)]

    def enter(self, layer: int, x: Tensor) -> None:
        """States that enter a layer; the first time that there are fewer, rows have left."""
        x_BMD = self._batched(x)
        if x_BMD is None:
            return
        self._entered = x_BMD.shape[1]
        if layer == 1:
            self.width, self.dtype = x_BMD.shape[-1], x_BMD.dtype
            self._keep(Tap.STATE, 0, x_BMD)
        elif self._last_BMD is not None and x_BMD.shape[1] < self._last_BMD.shape[1]:
            self._drop(layer, self._last_BMD, x_BMD)

    def leave(self, layer: int, out: object, picks: Sequence[Pick] = ()) -> None:
        """States after a layer; rows that leave within it were picked there."""
        x = out if isinstance(out, Tensor) else cast("Sequence[Tensor]", out)[0]
        self._depth, self._last_BMD = layer, self._batched(x)
        if self._last_BMD is not None:
            if self._last_BMD.shape[1] < self._entered:
                self._drop_within(layer, x, self._last_BMD.shape[1], picks)
            self._keep(Tap.STATE, layer, self._last_BMD)

    def end(self, output: object, num_layers: int, mask_id: int) -> Tensor | None:
        """Score the masks, and copy the cache if it is wanted. Returns the logits [B, N, V]."""
        past = key_values(_field(output, "past_key_values"))
        self.keeps = bool(past)
        if 0 < self._depth < num_layers:
            self.skip_layer = self.skip_layer or self._depth + 1
            self._going = [going[:0] for going in self._going]
        # Only what is asked for later is held on to.
        self._last_BMD = None
        if self._others:
            # A call that gives no cache back still shows which one it read.
            self._keep_store(past or self._given)
        logits_CNV = _logits(output)
        if logits_CNV is None or logits_CNV.shape[-1] <= mask_id:
            self.unseen = (
                f"what the attached module returns has no logits over the vocabulary (the mask's "
                f"id is {mask_id}); attach to the module whose output the loop decides by"
            )
            return None
        self.vocab_size = logits_CNV.shape[-1]
        if self._ids_BN is None or not self._found:
            return logits_CNV
        rows = logits_CNV.shape[1]
        gone_on = all(going.size == rows for going in self._going)
        if not (rows == self._rows or gone_on) or len(logits_CNV) <= self.samples.chosen.max():
            self.unseen = (
                f"a call of {self._rows} rows returned logits of {logits_CNV.shape[1]} rows; which "
                f"rows these are is not known"
            )
            return logits_CNV
        for b, c in enumerate(self.samples.chosen.tolist()):
            index = np.arange(rows) if rows == self._rows else self._going[b]
            self._score(b, logits_CNV[c], index, num_layers, mask_id)
        return logits_CNV

    def seen(
        self, b: int, after: np.ndarray, next_rows: np.ndarray | None, seconds: float, mask_id: int
    ) -> tuple[Seen, Rowed]:
        """One sample of the call, now that its canvas after the commit is known."""
        rows = self.placed.positions_BN[b]
        scores = self._scores[b]
        if scores.position.size:
            scores = _as_committed(scores, self._logits[b], after, mask_id)
        return Seen(
            forward=self.number,
            rows=rows,
            whole=rows.size == self.before_BL.shape[1],
            finished=rows[self._going[b]],
            skip_layer=self.skip_layer,
            keeps=self.keeps,
            positions_from=self.placed.source,
            before=self.before_BL[b],
            after=after,
            next_rows=next_rows,
            scores=scores,
            seconds=seconds,
        ), self._rowed[b]

    def _batched(self, x: Tensor) -> Tensor | None:
        """States as [B, M, D]; None if they have another shape, or their rows are not known."""
        if not self._found:
            return None
        x_CMD = x if x.dim() == 3 else x.unsqueeze(0)
        batch = len(self._going) * self.samples.parts
        if x_CMD.dim() != 3 or len(x_CMD) != batch:
            self.unseen = (
                f"the layers were given states of shape {tuple(x.shape)} for {batch} prompts; "
                f"attach reads states [batch, rows, width]"
            )
            return None
        return x_CMD if self.samples.all else x_CMD[self.samples.chosen.tolist()]

    def _drop_within(self, layer: int, x: Tensor, left: int, picks: Sequence[Pick]) -> None:
        """Rows left inside a layer: the layer took the others out of the states."""
        if not self._found:
            return
        sizes = self._entered, left
        found = next((p for p in reversed(picks) if (p.rows, p.out.shape[1]) == sizes), None)
        if found is None:
            self.rows_lost = (
                f"{self._entered - left} rows left within layer {layer}: which they are is not "
                f"known"
            )
            return
        index_CM = found.index()
        chosen = zip(self._going, self.samples.chosen.tolist(), strict=True)
        self._going = [going[index_CM[c]] for going, c in chosen]
        # Where the layer hands on what it picked, those that left were computed by it as well.
        self.skip_layer = self.skip_layer or (layer + 1 if found.out is x else layer)

    def _drop(self, layer: int, before_BMD: Tensor, after_BMD: Tensor) -> None:
        """Find out which rows left: those that stayed have kept their states, bit for bit."""
        if not self._found:
            return
        for b, going in enumerate(self._going):
            same = (after_BMD[b][:, None] == before_BMD[b][None]).all(-1)
            if not same.any(1).all():
                self.rows_lost = (
                    f"{before_BMD.shape[1] - after_BMD.shape[1]} rows left before layer {layer}, "
                    f"and the others were changed on the way: which they are is not known"
                )
                return
            kept = same.byte().argmax(1).cpu().numpy()
            self._going[b] = going[kept]
        self.skip_layer = self.skip_layer or layer

    def _keep(self, tap: Tap, layer: int, values_BMW: Tensor) -> None:
        if not self._states or self.rows_lost:
            return
        for b, going in enumerate(self._going):
            positions = self.placed.positions_BN[b][going]
            values = to_numpy(values_BMW[b])
            if self._sketched:
                tap, values = Tap.SKETCH, pack(sketch(values))
            self._rowed[b][TensorKey(self.number, tap, layer)] = (positions, values)

    def _keep_store(self, past: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Keys and values [B, heads, positions, width] as they lie in the foreign cache."""
        for layer, pair in enumerate(past, start=1):
            for tap, store in zip((Tap.KEY, Tap.VALUE), pair, strict=True):
                if store.ndim != 4 or len(store) <= self.samples.chosen.max():
                    continue
                for b, rowed in enumerate(self._rowed):
                    part = store[int(self.samples.chosen[b])]
                    values = to_numpy(part.transpose(0, 1).flatten(1))
                    positions = np.arange(values.shape[0], dtype=np.int32)
                    rowed[TensorKey(self.number, tap, layer)] = (positions, values)

    def _score(
        self, b: int, logits_NV: Tensor, rows: np.ndarray, num_layers: int, mask_id: int
    ) -> None:
        """Score the masks of one sample, from a copy: the loop may write into its logits."""
        assert self._ids_BN is not None
        positions = self.placed.positions_BN[b][rows]
        index = np.flatnonzero(self._ids_BN[b][rows] == mask_id)
        index = index[np.argsort(positions[index], kind="stable")]
        logits_CV = logits_NV[torch.from_numpy(index).to(logits_NV.device)]
        positions = positions[index]
        self._logits.append(logits_CV)
        self._scores[b] = _scores(positions, logits_CV, mask_id)
        if self._others and index.size:
            kept = _rows_kept(logits_NV, index)
            values = logits_NV[torch.from_numpy(kept).to(logits_NV.device)]
            key = TensorKey(self.number, Tap.LOGITS, num_layers)
            self._rowed[b][key] = (self.placed.positions_BN[b][kept], to_numpy(values))


def _field(output: object, name: str) -> object:
    """A part of what a model returned, by name."""
    if isinstance(output, Mapping):
        return output.get(name)
    return getattr(output, name, None)


def _logits(output: object) -> Tensor | None:
    """Logits [B, N, V] out of whatever a model returns."""
    if isinstance(output, Sequence):
        output = output[0]
    found = output if isinstance(output, Tensor) else _field(output, "logits")
    if not isinstance(found, Tensor):
        return None
    return found if found.dim() == 3 else found.unsqueeze(0)


def _rows_kept(logits_NV: Tensor, masks: np.ndarray) -> np.ndarray:
    """Rows whose logits are kept: all, for loops may use more than those of masks.

    Where they would be too large, the masks and the rows beside them: a loop may score a position
    by its neighbour.
    """
    rows = logits_NV.shape[0]
    if logits_NV.nbytes <= _LOGITS_BYTES:
        return np.arange(rows)
    near = np.concatenate([masks - 1, masks, masks + 1])
    return np.unique(near[(near >= 0) & (near < rows)])


def _no_scores() -> Scores:
    whole, real = np.empty(0, np.int32), np.empty(0)
    return Scores(whole, whole, real, whole, real)


def _scores(positions: np.ndarray, logits_CV: Tensor, mask_id: int) -> Scores:
    """What the rows would commit, in float64 as the engine decides it."""
    if positions.size == 0:
        return _no_scores()
    piece = max(1, _PIECE_BYTES // (8 * logits_CV.shape[-1]))
    parts = [_scored(part, mask_id) for part in logits_CV.split(piece)]

    def column(pick: Callable[[ops.Scored], Tensor]) -> np.ndarray:
        return torch.cat([pick(part) for part in parts]).cpu().numpy()

    return Scores(
        position=positions,
        token=column(lambda s: s.token_N).astype(np.int32),
        confidence=column(lambda s: s.confidence_N),
        runner_up=column(lambda s: s.runner_up_N).astype(np.int32),
        runner_up_confidence=column(lambda s: s.runner_up_confidence_N),
    )


def _scored(logits_CV: Tensor, mask_id: int) -> ops.Scored:
    """As the reference scores, in fewer passes: the two best are found in the model's own dtype.

    Widening keeps order and equality, so they are the same two; equal ones: the lowest id first.
    """
    left_CV = logits_CV.clone()
    left_CV[:, mask_id] = -torch.inf
    # Widened before the best goes, so that the sum has it.
    share_CV = left_CV.to(torch.float64, copy=True)
    best_C1, token_C1 = left_CV.max(-1, keepdim=True)
    second_C1, runner_up_C1 = left_CV.scatter_(-1, token_C1, -torch.inf).max(-1, keepdim=True)
    total_C1 = share_CV.sub_(best_C1.double()).exp_().sum(-1, keepdim=True)
    other_C1 = (second_C1.double() - best_C1.double()).exp() / total_C1
    return ops.Scored(
        token_C1[:, 0], total_C1.reciprocal()[:, 0], runner_up_C1[:, 0], other_C1[:, 0]
    )


def _as_committed(scores: Scores, logits_CV: Tensor, after: np.ndarray, mask_id: int) -> Scores:
    """The scores with the tokens that the loop took, where these are not the most probable."""
    taken = after[scores.position]
    odd = np.flatnonzero((taken != mask_id) & (taken != scores.token))
    if not odd.size:
        return scores
    token, confidence = scores.token.copy(), scores.confidence.copy()
    runner_up, second = scores.runner_up.copy(), scores.runner_up_confidence.copy()
    logits = logits_CV[torch.from_numpy(odd).to(logits_CV.device)].to(torch.float64, copy=True)
    logits[:, mask_id] = -torch.inf
    probability = logits.softmax(-1).cpu().numpy()
    # The best token is now the runner-up of the one that was taken.
    runner_up[odd], second[odd] = scores.token[odd], scores.confidence[odd]
    token[odd] = taken[odd]
    confidence[odd] = probability[np.arange(odd.size), taken[odd]]
    return Scores(scores.position, token, confidence, runner_up, second)
