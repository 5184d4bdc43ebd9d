"""What the hooks of a foreign model see during one call.

Shape letters: B batch, C batch of the call, N rows of the call, M rows that are still going,
D width, V vocabulary, Y layers, P positions of a cache, H heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from skipstone.foreign.attach.attended import Attended, places_of
from skipstone.foreign.attach.kept import Kept, KeptScores, KeptTensor
from skipstone.foreign.attach.offset import ScoreOffset
from skipstone.foreign.attach.output import Unguided, logits_of
from skipstone.foreign.attach.picks import Pick, picked_rows
from skipstone.foreign.attach.scored import CallScores
from skipstone.foreign.attach.seen import Seen
from skipstone.foreign.attach.snapshot import Carriers, Snapshot
from skipstone.foreign.attach.stores import Stores
from skipstone.foreign.attach.wanted import AttachLevel
from skipstone.foreign.attention.call import SeenAttention
from skipstone.foreign.rows.locate import Located
from skipstone.foreign.rows.placed import Placed, nowhere
from skipstone.foreign.shared.caches import by_heads, returned
from skipstone.record import Tap, TensorKey


class Forward:
    """Collects one call, layer by layer."""

    def __init__(
        self,
        number: int,
        located: Located,
        rows: int,
        given: Sequence[tuple[Tensor, Tensor]],
        level: AttachLevel,
        layers: int,
        stores: Stores,
        offset: ScoreOffset,
    ) -> None:
        """A call begins.

        Args:
            number: of the call.
            located: where its rows stand.
            rows: how many there are.
            given: keys and values of each layer in the cache that was passed.
            level: which states, keys, values and logits are wanted.
            layers: of the model.
            stores: caches as the call before left them.
            offset: says which positions rows score.
        """
        self.number = number
        self.placed = located.placed
        self.before_BL = located.canvas_BL
        self.samples = located.samples
        self.unseen = ""
        """What the call did not show, and why."""
        self.keeps, self.dtype = False, cast("torch.dtype | None", None)
        self.skip_layer = self.width = self.vocab_size = 0
        self.rows_lost = ""
        self.unlocated = ""
        """Why it is not known which rows the layers compute."""
        self._chosen_CM: np.ndarray | None = None
        """Which rows of the ids the model computes, if it chose some itself."""
        self._given_rows = self._rows = rows
        self._layers = layers
        self._given, self._stores = given, stores
        self._ids_BN = located.ids_BN
        self._found = located.placed.positions_BN.shape[1] == rows
        # Rows that could not be located have no place to be recorded at.
        self._states = level != "decisions" and self._found
        self._others = level in ("window", "full") and self._found
        self._sketched = level == "sketches"
        batch = len(located.canvas_BL)
        self._going = [np.arange(rows if self._found else 0) for _ in range(batch)]
        self._depth = 0
        self._shape: torch.Size | None = None
        """Of the states that went in or out last; None if they are not known."""
        self._last: Tensor | None = None
        """States that came out of a layer last."""
        # Scores are asked for first: they do not wait for all the rest.
        self._scores, self._tensors = Snapshot(), Snapshot()
        self._kept: list[Kept] = [[] for _ in range(batch)]
        logits = self._tensors if self._others else None
        self._scored = CallScores(number, layers, self.samples, offset, self._scores, logits)
        self._attended = Attended(number, located.canvas_BL.shape[1], self._tensors)

    def enters_whole(self, layer: int, x: Tensor) -> bool:
        """Whether all rows that left one layer go into the next, as almost always: no news."""
        return layer > 1 and x.shape == self._shape

    def leaves_whole(self, layer: int, out: object) -> bool:
        """Whether all rows that went into a layer come out of it, and nothing of them is kept."""
        x = out[0] if isinstance(out, tuple) and out else out
        if self._states or not isinstance(x, Tensor) or x.shape != self._shape:
            return False
        self._depth, self._last = layer, x
        return True

    def enter(self, layer: int, x: Tensor, picks: Sequence[Pick] = ()) -> None:
        """States that enter a layer; the first time that there are fewer, rows have left."""
        if layer == 1 and self._found and _rows(x.shape) != self._rows:
            self._choose(x, picks)
        x_BMD, last = self._batched(x), self._last
        self._shape = None if x_BMD is None else x.shape
        if x_BMD is None:
            return
        if layer == 1:
            self.width, self.dtype = x_BMD.shape[-1], x_BMD.dtype
            self._keep(0, x_BMD)
        elif last is not None and _rows(x.shape) < _rows(last.shape):
            last_BMD = self._batched(last)
            assert last_BMD is not None
            self._drop(layer, last_BMD, x_BMD)

    def leave(
        self,
        layer: int,
        out: object,
        picks: Sequence[Pick] = (),
        attention: Sequence[SeenAttention] = (),
    ) -> None:
        """States after a layer; rows that leave within it were picked there."""
        going = self._going
        x = out if isinstance(out, Tensor) else cast("Sequence[Tensor]", out)[0]
        x_BMD, entered = self._batched(x), self._shape
        self._depth, self._last = layer, None if x_BMD is None else x
        self._shape = None if x_BMD is None else x.shape
        if x_BMD is not None:
            if entered is not None and x_BMD.shape[1] < _rows(entered):
                self._drop_within(layer, x, _rows(entered), picks)
            self._keep(layer, x_BMD)
        if self._others and not self.rows_lost:
            for call, one in enumerate(attention):
                self._attend(layer, call, one, going)

    def _choose(self, x: Tensor, picks: Sequence[Pick]) -> None:
        """The model computes other rows than those of the ids: it chose them itself, or added some.

        From here on the call is one of the rows that were chosen.
        """
        left = _rows(x.shape)
        found = picked_rows(picks, self._rows, left)
        index_CM = None if found is None or found[0].moved(x) else found[1]
        if index_CM is None or len(index_CM) <= self.samples.chosen.max():
            self.unlocated = (
                f"the model is given {self._rows} rows and its layers compute {left}; which rows "
                f"these are is not known"
            )
            self._found = self._states = self._others = False
            self.placed = nowhere(len(self._going))
            self._going = [going[:0] for going in self._going]
            return
        self._chosen_CM = index_CM
        index_BM = index_CM[self.samples.chosen]
        rows_BM = np.take_along_axis(self.placed.positions_BN, index_BM, axis=1)
        self.placed = Placed(rows_BM, self.placed.source)
        if self._ids_BN is not None:
            self._ids_BN = np.take_along_axis(self._ids_BN, index_BM, axis=1)
        self._rows, self._given_rows = left, self._rows
        self._going = [np.arange(left) for _ in self._going]

    def _of_chosen(self, logits_CNV: Tensor) -> Tensor:
        """Logits of the rows that were computed, where the model gives some for all its ids."""
        if self._chosen_CM is None or logits_CNV.shape[1] != self._given_rows:
            return logits_CNV
        index_CM = torch.from_numpy(self._chosen_CM).to(logits_CNV.device)
        return logits_CNV[torch.arange(len(index_CM), device=index_CM.device)[:, None], index_CM]

    def _attend(
        self, layer: int, call: int, attention: SeenAttention, entered: Sequence[np.ndarray]
    ) -> None:
        """Keep what attention was given; its rows are those before or after some have left."""
        batch, _, rows, _ = attention.query_CHNW.shape
        going = next((g for g in (entered, self._going) if g[0].size == rows), None)
        if going is not None and batch > self.samples.chosen.max():
            positions = [self.placed.positions_BN[b][index] for b, index in enumerate(going)]
            self._attended.add(layer, call, attention, positions)

    def end(self, output: object, mask_id: int, axis: int | None) -> Tensor | None:
        """Score the masks, and copy the cache if it is wanted.

        Args:
            output: of the model.
            mask_id: of the masks.
            axis: the dimension of a cache that is its length, if it is known.

        Returns:
            The logits [B, N, V]; None if there are none.
        """
        past = returned(output)
        self.keeps, num_layers = bool(past), self._layers
        if 0 < self._depth < num_layers:
            self.skip_layer = self.skip_layer or self._depth + 1
            self._going = [going[:0] for going in self._going]
        # Only what is asked for later is held on to.
        self._last = None
        if self._others:
            # A call that gives no cache back still shows which one it read.
            self._keep_store(past or self._given, axis)
        logits_CNV = logits_of(output, mask_id)
        if logits_CNV is None:
            self.unseen = (
                f"what the attached module returns has no logits over the vocabulary (the mask's "
                f"id is {mask_id}); attach to the module whose output the loop decides by"
            )
            return None
        self.vocab_size = logits_CNV.shape[-1]
        if self._ids_BN is None or not self._found:
            return logits_CNV
        returned_CNV, logits_CNV = logits_CNV, self._of_chosen(logits_CNV)
        rows = logits_CNV.shape[1]
        gone_on = all(going.size == rows for going in self._going)
        if not (rows == self._rows or gone_on) or len(logits_CNV) <= self.samples.chosen.max():
            self.unseen = (
                f"a call of {self._rows} rows returned logits of {logits_CNV.shape[1]} rows; which "
                f"rows these are is not known"
            )
            return returned_CNV
        for b, canvas_L in enumerate(self.before_BL):
            index = np.arange(rows) if rows == self._rows else self._going[b]
            given = self.placed.positions_BN[b][index], self._ids_BN[b][index]
            self._kept[b] += self._scored.take(b, logits_CNV, *given, canvas_L, mask_id)
        return returned_CNV

    def send(self, carriers: Carriers) -> None:
        """Let go of all that was kept; it is there when the call is ``seen``."""
        self._scores.send(carriers)
        self._tensors.send(carriers)
        self._stores.send(carriers)

    def is_hidden_by(self, located: Located, start_BL: np.ndarray, mask_id: int) -> bool:
        """Whether another call had the canvas of this one, but for its prompt."""
        ids_BN, rows_BN = located.ids_BN, located.placed.positions_BN
        if ids_BN is None or rows_BN.shape != ids_BN.shape or rows_BN.shape[1] != self._rows:
            return False
        before_BN = np.take_along_axis(self.before_BL, rows_BN, axis=1)
        given_BN = np.take_along_axis(start_BL != mask_id, rows_BN, axis=1)
        return bool(((ids_BN == before_BN) | given_BN).all())

    def hide(self, unguided: Unguided) -> None:
        """Keep the logits of a call with the same canvas, but for its prompt."""
        if not self._others:
            return
        parts = self._scored.guided_by(unguided, self.before_BL.shape[1])
        for kept, part in zip(self._kept, parts, strict=False):
            kept.append(part)

    def logits(self) -> Unguided:
        """Those that were kept, of a call that turned out to have a hidden prompt itself."""
        every = [k for kept in self._kept for k in kept if isinstance(k, KeptScores)]
        return [(k.rows, k.copy) for k in every if k.key.tap is Tap.LOGITS]

    def seen(
        self, b: int, after: np.ndarray, next_rows: np.ndarray | None, seconds: float, mask_id: int
    ) -> tuple[Seen, Kept]:
        """One sample of the call, now that its canvas after the commit is known."""
        rows = self.placed.positions_BN[b]
        scores, shifted = self._scored.scores(b, after, mask_id)
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
            shifted=shifted,
        ), self._kept[b]

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

    def _drop_within(self, layer: int, x: Tensor, entered: int, picks: Sequence[Pick]) -> None:
        """Rows left inside a layer: the layer took the others out of the states."""
        found = picked_rows(picks, entered, _rows(x.shape))
        if found is None:
            self.rows_lost = (
                f"{entered - _rows(x.shape)} rows left within layer {layer}: which they are is not "
                f"known"
            )
            return
        pick, index_CM = found
        chosen = zip(self._going, self.samples.chosen.tolist(), strict=True)
        self._going = [going[index_CM[c]] for going, c in chosen]
        # Where the layer hands on what it picked, those that left were computed by it as well.
        self.skip_layer = self.skip_layer or (layer + 1 if pick.out is x else layer)

    def _drop(self, layer: int, before_BMD: Tensor, after_BMD: Tensor) -> None:
        """Find out which rows left: those that stayed have kept their states, bit for bit."""
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

    def _keep(self, layer: int, states_BMD: Tensor) -> None:
        if not self._states or self.rows_lost:
            return
        if any(going.size != states_BMD.shape[1] for going in self._going):
            self.rows_lost = (
                f"{states_BMD.shape[1]} rows go through layer {layer}, after {self._going[0].size} "
                f"before: which they are is not known"
            )
            return
        copy = self._tensors.take(states_BMD, own=not self.samples.all)
        tap = Tap.SKETCH if self._sketched else Tap.STATE
        for b, going in enumerate(self._going):
            positions = self.placed.positions_BN[b][going]
            self._kept[b].append(
                KeptTensor(TensorKey(self.number, tap, layer), positions, copy, (b,))
            )

    def _keep_store(self, past: Sequence[tuple[Tensor, Tensor]], axis: int | None) -> None:
        """Keys and values as the foreign cache has them."""
        length = self.before_BL.shape[1]
        for tap, found in zip((Tap.KEY, Tap.VALUE), zip(*past, strict=True), strict=False):
            groups = dict[object, list[int]]()
            stores = [by_heads(store, length, axis) for store in found]
            for layer, store in enumerate(stores, start=1):
                if store.ndim == 4 and len(store) > self.samples.chosen.max():
                    groups.setdefault((store.shape, store.dtype, store.device), []).append(layer)
            for layers in groups.values():
                self._keep_stores(tap, layers, [stores[layer - 1] for layer in layers])
        pairs = ((by_heads(k, length, axis), by_heads(v, length, axis)) for k, v in past)
        self._attended.end(list(pairs))
        for b, c in enumerate(self.samples.chosen.tolist()):
            self._kept[b] += self._attended.kept(b, c)

    def _keep_stores(self, tap: Tap, layers: Sequence[int], stores: Sequence[Tensor]) -> None:
        """Those of some layers that are alike, in one pass over all of them."""
        batch, heads, length, width = stores[0].shape
        rows_YCPHW = stores[0].new_empty(len(stores), batch, length, heads, width)
        torch.stack(list(stores), out=rows_YCPHW.transpose(2, 3))
        rows_YCPD, name = rows_YCPHW.flatten(3), (tap, tuple(layers))
        if rows_YCPD.is_cuda:
            computed_BN = self.placed.positions_BN
            copy = self._stores.take(name, rows_YCPD, computed_BN, self._tensors)
        else:
            copy = self._tensors.take(rows_YCPD, own=True)
        for y, layer in enumerate(layers):
            key = TensorKey(self.number, tap, layer)
            for b, c in enumerate(self.samples.chosen.tolist()):
                positions = places_of(length, self.placed.positions_BN[b])
                self._kept[b].append(KeptTensor(key, positions, copy, (y, c)))


def _rows(shape: torch.Size) -> int:
    """M of states [B, M, D] or [M, D]."""
    return shape[-2]
