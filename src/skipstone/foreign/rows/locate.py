"""A call and its canvas: which run it goes on, what the canvas is by now, which rows it computes.

Shape letters: B batch of the run, C batch of the call, N rows of the call, L canvas length.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from skipstone.foreign.rows import placed as ways
from skipstone.foreign.rows.cache_axis import likeliest
from skipstone.foreign.rows.guidance import Samples, is_part, samples_of
from skipstone.foreign.rows.placed import Numbers, Placed
from skipstone.foreign.shared.calls import Call, host_ids


@dataclass(frozen=True, eq=False)
class CanvasState:
    """What is known of the run that is under way."""

    canvas_BL: np.ndarray
    """int64: of the call before."""
    newest_BL: np.ndarray | None
    """That the loop made since, which may be longer; None if none was seen."""
    given_BL: np.ndarray
    """bool: what was no mask when the run began."""
    numbers: Numbers | None
    """How positions are numbered, if not from 0."""

    @property
    def now_BL(self) -> np.ndarray:
        """The canvas as far as it is known."""
        return self.canvas_BL if self.newest_BL is None else self.newest_BL


@dataclass(frozen=True, eq=False)
class Located:
    """A call, the samples it computes, its canvas, and its rows in it."""

    samples: Samples
    ids_BN: np.ndarray | None
    """int64: of the samples; None if only embeddings are known."""
    canvas_BL: np.ndarray
    """int64: the whole canvas at the call."""
    canvas: Tensor | None
    """The tensor that holds it; the loop may go on to write into it."""
    placed: Placed
    said: Placed | None = None
    """Where the call says its rows are, if it is known that they are elsewhere."""
    stale_BN: np.ndarray | None = None
    """bool: masks that the call before has filled, and that this one was given as masks again; None
    if there are none."""
    was_stale: Located | None = None
    """The call before, if its ids were stale and what it was not given is still there."""
    overwritten_BL: np.ndarray | None = None
    """bool: positions of the prompt that the loop has written other ids into; None if none are."""
    anew: bool = False
    """Whether a run begins with this call."""
    hid_before: bool = False
    """Whether the call before was of this canvas with its prompt hidden, and no run of its own."""
    problem: str = ""
    """Why the rows, or the canvas, could not be located."""


def locate(
    call: Call,
    ids: Tensor | None,
    positions: Tensor | None,
    known: CanvasState | None,
    mask_id: int,
) -> Located | None:
    """Find the canvas of a call, and its rows in it.

    Args:
        call: as the model was called.
        ids: its ids, or those that its embeddings were looked up by.
        positions: where the ids come from, as the position map knows it.
        known: the run under way; None if there is none.
        mask_id: fits every id when rows are looked for.

    Returns:
        None if not even a canvas is known: no run can begin with this call.
    """
    if ids is None:
        return _without_ids(call, known)
    ids_CN = host_ids(ids)
    if known is not None and is_part(ids_CN, known.now_BL):
        return _of_some(known, len(ids_CN))
    now_BL, given_BL = (None, None) if known is None else (known.now_BL, known.given_BL)
    samples = samples_of(ids_CN, now_BL, given_BL, mask_id)
    if now_BL is not None:
        call = likeliest(call, ids_CN[samples.chosen], now_BL, mask_id)
    found = _Search(call, ids, ids_CN[samples.chosen], samples, positions, known, mask_id)
    located = dataclasses.replace(found.located(), anew=known is None)
    return located if known is None else _trimmed(located, known.canvas_BL.shape[1])


def _trimmed(located: Located, length: int) -> Located:
    """A loop may keep more positions than it ever computes: a canvas grows by rows of calls."""
    rows_BN = located.placed.positions_BN
    length = max(length, int(rows_BN.max(initial=-1)) + 1)
    return dataclasses.replace(located, canvas_BL=located.canvas_BL[:, :length])


def _of_some(known: CanvasState, batch: int) -> Located:
    """Samples that left the batch: what is committed is known, and not who was computed."""
    everyone = len(known.now_BL)
    return Located(
        Samples(np.arange(everyone), twin=False),
        None,
        known.now_BL,
        None,
        ways.nowhere(everyone),
        problem=(
            f"a call computes {batch} of the {everyone} prompts of the batch; its rows are not "
            f"recorded, what it commits is; keep the batch whole, or decode one prompt at a time"
        ),
    )


def _without_ids(call: Call, known: CanvasState | None) -> Located | None:
    """Embeddings that stand for no known ids: the rows may be known all the same."""
    if known is None:
        return None
    batch, rows = call.shape
    length = known.canvas_BL.shape[1]
    everyone = Samples(np.arange(len(known.canvas_BL)), twin=False)
    placed = ways.stated(call.stated, known.numbers, batch) or ways.counted(call)
    if placed is None and rows == length:
        placed = ways.span(batch, 0, rows, "all_rows")
    lost = placed is None or batch != len(known.canvas_BL)
    return Located(
        everyone,
        None,
        known.now_BL,
        None,
        ways.nowhere(len(known.canvas_BL)) if lost or placed is None else placed,
        problem=f"the {rows} embeddings of a call are those of no known ids" if lost else "",
    )


@dataclass(frozen=True, eq=False)
class _Search:
    """One call whose rows are looked for."""

    call: Call
    ids: Tensor
    ids_BN: np.ndarray
    samples: Samples
    positions: Tensor | None
    known: CanvasState | None
    mask_id: int

    @property
    def length(self) -> int | None:
        return None if self.known is None else self.known.now_BL.shape[1]

    @property
    def _sure(self) -> bool:
        """Whether the argument that states positions can mean nothing else."""
        stated = self.call.stated
        return stated is not None and (
            stated.sure or (self.known is None and self.call.given_cache)
        )

    def located(self) -> Located:
        """By the surest way that tells."""
        batch, rows = self.ids_BN.shape
        exact = self._of_samples(ways.carried(self.call, self.positions))
        numbers = None if self.known is None else self.known.numbers
        said = ways.stated(self.call.stated, numbers, self.call.shape[0])
        if self._is_whole(exact, said if self._sure else None):
            return self._whole()
        view = ways.slice_of_canvas(self.ids, self.length)
        if view is not None and not (self.samples.all and self._is_canvas(view[1])):
            view = None
        if view is not None and not (exact is None and self._fresh(said)):
            start, canvas_BL, canvas = view
            exact = ways.span(batch, start, rows, "canvas_slice")
            return self._exact(exact, said if self._sure else None, canvas_BL, canvas)
        if self.known is None:
            return self._first(said)
        if exact is not None:
            return self._exact(exact, said if self._sure else None, self.known.now_BL, None)
        return self._told(said, self.known)

    def _is_whole(self, exact: Placed | None, said: Placed | None) -> bool:
        """Whether the rows are all of the canvas, from its first position on."""
        rows = self.ids_BN.shape[1]
        from_0 = np.arange(rows)
        if exact is not None:
            return (exact.positions_BN == from_0).all() and rows >= (self.length or rows)
        if self.known is None:
            stated = self.call.stated
            counted = said is not None and bool((said.positions_BN == from_0).all())
            numbered = said is None or stated is None or ways.counts_from_start(stated)
            # A cache that was laid out before has room for all positions, and nothing in it yet.
            begins = counted or (numbered and self.call.cached == 0)
            return begins and not self._is_view()
        if rows == self.length:
            beyond = said is not None and said.positions_BN.max() >= rows
            return not beyond and (said is not None or self._continues())
        return rows > self.known.now_BL.shape[1] and self._continues()

    def _is_canvas(self, around_BL: np.ndarray) -> bool:
        """Whether the memory around the ids has the prompt of the run, if one is under way."""
        if self.known is None:
            return True
        given_BL = self.known.given_BL
        length = given_BL.shape[1]
        if around_BL.shape[0] != len(given_BL) or around_BL.shape[1] < length:
            return False
        prompt = self.known.canvas_BL[:, :length][given_BL]
        # Another prompt of the same length begins another run, with rows that say where they are.
        return self.call.stated is not None or np.array_equal(
            around_BL[:, :length][given_BL], prompt
        )

    def _is_view(self) -> bool:
        """Whether the ids are a part of a canvas, or of a larger tensor that is spoken of."""
        view = ways.slice_of_canvas(self.ids, None)
        speaks = self.call.given_cache or self.call.stated is not None
        return view is not None and (speaks or self._amid_masks(view[0], view[1]))

    def _amid_masks(self, start: int, around_BL: np.ndarray) -> bool:
        """Whether the memory around the ids is that of a canvas: nothing but masks."""
        if self.ids.ndim != 2 or self.ids.stride(0) != around_BL.shape[1]:
            return False  # one row of a larger batch
        rest_BM = np.delete(around_BL, np.s_[start : start + self.ids.shape[1]], axis=1)
        return bool((rest_BM == self.mask_id).all())

    def _continues(self) -> bool:
        """Whether ids as long as the canvas, or longer, go on from it."""
        assert self.known is not None
        now_BL = self.known.now_BL
        same = self.ids_BN[:, : now_BL.shape[1]] == now_BL
        tokens = now_BL != self.mask_id
        return len(now_BL) == len(self.ids_BN) and bool(same[tokens].all())

    def _fresh(self, said: Placed | None) -> bool:
        """Whether nothing speaks of rows or caches: the ids are a canvas of their own."""
        silent = said is None and not self.call.given_cache and self.known is None
        return silent and not self._is_view()

    def _whole(self) -> Located:
        batch, rows = self.ids_BN.shape
        tensor = self.ids if self.samples.all else None
        placed = ways.span(batch, 0, rows, "all_rows")
        return Located(self.samples, self.ids_BN, self.ids_BN, tensor, placed)

    def _first(self, said: Placed | None) -> Located:
        """Rows of a canvas that was never seen whole."""
        batch, rows = self.ids_BN.shape
        placed = said or self._of_samples(ways.counted(self.call))
        assert placed is not None
        canvas_BL = np.full((batch, int(placed.positions_BN.max()) + 1), self.mask_id, np.int64)
        np.put_along_axis(canvas_BL, placed.positions_BN.astype(np.int64), self.ids_BN, axis=1)
        return Located(
            self.samples,
            self.ids_BN,
            canvas_BL,
            None,
            placed,
            problem=(
                f"the first call that was seen has {rows} rows, from position "
                f"{int(placed.positions_BN.min())} on, and what stands before them is not known; "
                f"attach before the first call over all positions"
            ),
        )

    def _exact(
        self, exact: Placed, said: Placed | None, canvas_BL: np.ndarray, canvas: Tensor | None
    ) -> Located:
        """The way that the ids went is believed over what the call says.

        What may mean positions, or a length, counts if it agrees, and is ignored otherwise.
        """
        said = said or self._maybe_said(exact) or self._counted(canvas_BL.shape[1])
        stale_BN = self._stale(exact) if canvas is None else None
        if canvas is None and stale_BN is None:
            canvas_BL = self._written(canvas_BL, exact)
        agree = said is not None and np.array_equal(said.positions_BN, exact.positions_BN)
        placed = said if agree and said is not None else exact
        guessed = said is not None and said.source == "cache_length" and not self.call.length_known
        odd = said if not (agree or guessed or self.call.padded) else None
        return Located(self.samples, self.ids_BN, canvas_BL, canvas, placed, odd, stale_BN)

    def _maybe_said(self, exact: Placed) -> Placed | None:
        """What an argument says that may mean something else, if it says where the rows are."""
        numbers = None if self.known is None else self.known.numbers
        said = self._of_samples(ways.stated(self.call.stated, numbers, self.call.shape[0]))
        agrees = said is not None and np.array_equal(said.positions_BN, exact.positions_BN)
        return said if agrees else None

    def _told(self, said: Placed | None, known: CanvasState) -> Located:
        """By what the call says, by its cache, or by where its ids fit."""
        now_BL, rows = known.now_BL, self.ids_BN.shape[1]
        next_one = None if said is None else self._right_behind_cache(said, known)
        if next_one is not None:
            canvas_BL = self._written(now_BL, next_one)
            return Located(self.samples, self.ids_BN, canvas_BL, None, next_one, said)
        placed = said or self._counted(now_BL.shape[1])
        if placed is None and self.call.cached == now_BL.shape[1] and not self._continues_within():
            placed = self._of_samples(ways.counted(self.call))
        if placed is None and len(now_BL) == len(self.ids_BN) and rows < now_BL.shape[1]:
            placed = ways.inferred(self.ids_BN, now_BL, self.mask_id)
        alone = self.call.cached == 0 and rows >= now_BL.shape[1]
        if placed is None and (alone or not (self.call.cache or self._continues_within())):
            return self._whole()
        if placed is None or len(now_BL) != len(self.ids_BN):
            return Located(
                self.samples,
                self.ids_BN,
                now_BL,
                None,
                ways.nowhere(len(now_BL)),
                problem=(
                    f"a call of {rows} rows does not say which positions they are, and its ids fit "
                    f"the canvas of {now_BL.shape[1]} at no place or at several; pass position_ids "
                    f"or replace_position to the model, or ids that are a slice of the canvas"
                ),
            )
        stale_BN = None if placed.source == "inferred" else self._stale(placed)
        canvas_BL = self._written(now_BL, placed) if stale_BN is None else now_BL
        return Located(self.samples, self.ids_BN, canvas_BL, None, placed, stale_BN=stale_BN)

    def _right_behind_cache(self, said: Placed, known: CanvasState) -> Placed | None:
        """Rows right behind a cache, where position ids leave a few positions out.

        The canvas shows that they stand there; or it ends with the cache, and what stands in a gap
        that is shorter than the call was never computed by anybody.
        """
        stated, counted = self.call.stated, self._of_samples(ways.counted(self.call))
        if stated is None or stated.name != "position_ids" or counted is None:
            return None
        if not self.call.length_known:
            return None
        gap_BN = said.positions_BN - counted.positions_BN
        if len(np.unique(gap_BN)) != 1 or not 0 < int(gap_BN.flat[0]) < self.ids_BN.shape[1]:
            return None
        ends = self.call.cached == known.canvas_BL.shape[1]
        shown = self._stands(counted, known.now_BL) and not self._stands(said, known.now_BL)
        return counted if ends or shown else None

    def _stands(self, placed: Placed, canvas_BL: np.ndarray) -> bool:
        """Whether the canvas has the ids of the call at some positions."""
        places_BN = placed.positions_BN.astype(np.int64)
        if len(canvas_BL) != len(places_BN) or places_BN.max(initial=-1) >= canvas_BL.shape[1]:
            return False
        return np.array_equal(np.take_along_axis(canvas_BL, places_BN, axis=1), self.ids_BN)

    def _stale(self, placed: Placed) -> np.ndarray | None:
        """Rows, bool [B, N], whose ids are the canvas of the call before, which has gone on since.

        A loop that masks tokens again has a canvas that shows it.
        """
        known = self.known
        if known is None or known.newest_BL is None or not self.samples.all:
            return None
        places_BN, length = placed.positions_BN.astype(np.int64), known.canvas_BL.shape[1]
        if len(known.canvas_BL) != len(places_BN) or places_BN.max(initial=-1) >= length:
            return None
        now_BN, old_BN = (
            np.take_along_axis(canvas_BL, places_BN, axis=1)
            for canvas_BL in (known.newest_BL, known.canvas_BL)
        )
        other_BN = self.ids_BN != now_BN
        masked_BN = (self.ids_BN == self.mask_id) & (old_BN == self.mask_id)
        return other_BN if other_BN.any() and masked_BN[other_BN].all() else None

    def _continues_within(self) -> bool:
        """Whether ids fit somewhere into the canvas: a cache of all positions is overwritten."""
        assert self.known is not None
        now_BL = self.known.now_BL
        if len(now_BL) != len(self.ids_BN) or self.ids_BN.shape[1] > now_BL.shape[1]:
            return False
        windows = np.lib.stride_tricks.sliding_window_view(now_BL, self.ids_BN.shape[1], axis=1)
        fits = (windows == self.ids_BN[:, None]) | (windows == self.mask_id)
        return bool(fits.all((0, 2)).any())

    def _counted(self, length: int) -> Placed | None:
        """By the length of the cache, if the rows then end within the canvas."""
        placed = self._of_samples(ways.counted(self.call))
        return placed if placed is not None and placed.positions_BN.max() < length else None

    def _of_samples(self, placed: Placed | None) -> Placed | None:
        chosen = self.samples.chosen
        if placed is None or len(placed.positions_BN) == len(chosen):
            return placed
        return Placed(placed.positions_BN[chosen], placed.source)

    def _written(self, canvas_BL: np.ndarray, placed: Placed) -> np.ndarray:
        """The canvas with the ids of the call in it, made longer where they go beyond it."""
        canvas_BL = ways.longer(canvas_BL, int(placed.positions_BN.max()) + 1, self.mask_id)
        np.put_along_axis(canvas_BL, placed.positions_BN.astype(np.int64), self.ids_BN, axis=1)
        return canvas_BL
