"""What can be wrong with a cache: when and where it is written, turned, seen and read."""

from __future__ import annotations

from faults.cases.common import COMPANION, DLLM, DYLLM, FIXED, PARTED
from faults.engine import cache, sight
from faults.specimen import Pair, Specimen, against, same
from faults.truth import (
    ALWAYS,
    CACHED,
    SECOND_BLOCK,
    Truth,
    anywhere,
    first_of_block,
    first_positions,
    from_forward,
    in_block,
    near_block,
    outside_block,
)

WINDOW = "suffix_window=3"
ALL_KEPT, KEPT = "cache=sparse:1.0", "cache=sparse:0.25"
POINTED = "cache=d2cache:current_k=4,rollout_p=0.05"
LONG = f"{FIXED} eos_stop=false"
"""An answer that ends within its first block has no second one."""


OF_CACHE = (
    Specimen(
        "no refresh at the second block",
        (11,),
        same(LONG),
        Truth(SECOND_BLOCK, (1,), outside_block),
        cache.no_refresh_at_the_second_block,
    ),
    # Masks have the same values in the first layer, whatever their position and step.
    Specimen(
        "a write is lost",
        (11,),
        same(FIXED),
        Truth(CACHED, (1, 2), first_of_block),
        cache.write_lost,
    ),
    Specimen(
        "writes come a step late",
        (11,),
        same(FIXED),
        Truth(CACHED, (1,), in_block),
        cache.writes_one_step_late,
    ),
    Specimen(
        "a refresh stops half way",
        (11,),
        same(LONG),
        Truth(SECOND_BLOCK, (17,), first_positions(8)),
        cache.refresh_stops_half_way,
    ),
    Specimen("dual cache, by setting", (11,), against(f"{FIXED} cache=none", FIXED), PARTED),
    Specimen(
        "prefix cache, by setting",
        (11,),
        against(f"{LONG} cache=none", f"{LONG} cache=prefix"),
        PARTED,
    ),
    Specimen(
        "vicinity cache, by setting",
        (11,),
        against(f"{LONG} cache=none", f"{LONG} cache=vicinity:warmup=0,before=1,after=1"),
        PARTED,
    ),
    Specimen(
        "elastic cache, by setting",
        (11,),
        against(f"{FIXED} cache=none", f"{FIXED} cache=elastic:gamma=0.5"),
        PARTED,
    ),
    Specimen(
        "rows that the last step points at, by setting",
        (11,),
        against(f"{FIXED} cache=none", f"{FIXED} {POINTED}"),
        PARTED,
    ),
    Specimen(
        "attention points at no row",
        (16,),
        same(f"{FIXED} {POINTED}"),
        Truth(from_forward(1), (1,), anywhere),
        cache.nothing_pointed_at,
    ),
    Specimen(
        # Keys and values of the mask that stood there are read: older than they should be.
        "what was committed is not computed again",
        (11,),
        same(f"{FIXED} {POINTED}"),
        Truth(from_forward(1), (1,), anywhere),
        cache.committed_left_out,
    ),
    Specimen(
        "delayed cache, by setting",
        (11,),
        against(f"{LONG} cache=none", f"{LONG} cache=dkv:refresh_every=0"),
        PARTED,
    ),
    Specimen(
        "values that moved least are kept, by setting",
        (11,),
        against(f"{FIXED} cache=none", f"{FIXED} {DLLM}"),
        PARTED,
    ),
    Specimen(
        "the interval of the response is forgotten",
        (11,),
        same(f"{FIXED} {DLLM}"),
        Truth(from_forward(4), (2,), anywhere),
        cache.response_never_due,
    ),
    Specimen(
        "keys that are hidden, by setting",
        (15,),
        against(f"{FIXED} {ALL_KEPT}", f"{FIXED} cache=sparse:0.1"),
        PARTED,
    ),
    Specimen(
        "kept keys are not pooled",
        (15,),
        same(f"{FIXED} {KEPT}"),
        Truth(from_forward(2), (1, 2), outside_block),
        cache.neighbours_not_pooled(),
    ),
    Specimen(
        "keys are chosen a step early",
        (15,),
        same(f"{FIXED} {KEPT}"),
        Truth(from_forward(2), (1, 2), outside_block),
        cache.chosen_a_step_early(),
    ),
    Specimen(
        "MLPs of rows that hardly turned are kept, by setting",
        (11,),
        against(f"{FIXED} cache=none", f"{FIXED} {DYLLM}"),
        PARTED,
    ),
    Specimen(
        "a warm-up ends at once",
        (11,),
        same(f"{FIXED} {DYLLM}"),
        Truth(from_forward(1), (1,), first_positions(8)),
        cache.warmup_ends_at_once,
    ),
    Specimen(
        "the interval of the prompt is forgotten",
        (11,),
        same(f"{FIXED} {DYLLM}"),
        Truth(from_forward(7), (1,), first_positions(8)),
        cache.prompt_never_due,
    ),
    Specimen(
        "fewer refreshes, by setting",
        (11,),
        against(f"{FIXED} cache=dual:refresh_every=2", FIXED),
        PARTED,
    ),
    Specimen(
        "K/V written one position off",
        (13,),
        same(FIXED),
        Truth(CACHED, (1,), near_block),
        cache.write_one_position_off,
    ),
    Specimen(
        "values scattered backwards",
        (13,),
        same(FIXED),
        Truth(CACHED, (1, 2), in_block),
        cache.values_backwards,
    ),
    Specimen(
        "values are not written",
        (11,),
        same(FIXED),
        Truth(CACHED, (1, 2), in_block),
        cache.values_not_written,
    ),
    Specimen(
        "keys and values swapped",
        (13,),
        same(FIXED),
        Truth(CACHED, (1,), in_block),
        cache.keys_and_values_swapped,
    ),
    Specimen(
        "K/V of the other request",
        (13,),
        same(FIXED),
        Truth(CACHED, (1, 2), first_of_block),
        cache.keys_of_the_other_request,
        companions=COMPANION,
    ),
    Specimen(
        "rotary positions one too far",
        (14,),
        same(FIXED),
        Truth(CACHED, (1,), in_block),
        cache.positions_one_too_far,
    ),
    Specimen(
        "rotary positions count rows",
        (14,),
        same(FIXED),
        Truth(CACHED, (1,), in_block),
        cache.positions_from_zero,
    ),
    Specimen(
        "rotary base of another model",
        (14,),
        same(FIXED),
        Truth(ALWAYS, (1,), anywhere),
        cache.other_rotary_base,
    ),
    Specimen(
        "rotary pairs interleaved",
        (14,),
        same(FIXED),
        Truth(ALWAYS, (1,), anywhere),
        cache.pairs_interleaved,
    ),
    Specimen(
        "suffix hidden",
        (15,),
        same(FIXED),
        Truth(CACHED, (1,), in_block),
        sight.suffix_hidden(),
    ),
    Specimen(
        "start of the prompt hidden",
        (15,),
        same(FIXED),
        Truth(CACHED, (1,), in_block),
        sight.prompt_hidden(12),
    ),
    Specimen(
        "a window hides what is far",
        (15,),
        same(FIXED),
        Truth(CACHED, (1,), in_block),
        sight.window(4),
    ),
    Specimen(
        "causal attention",
        (15,),
        same(FIXED),
        Truth(ALWAYS, (1,), anywhere),
        sight.causal(),
    ),
    Specimen(
        "padding is attended",
        (15,),
        same(FIXED),
        Truth(ALWAYS, (1,), anywhere),
        sight.padding_seen(),
        companions=COMPANION,
    ),
    Specimen(
        "rows of the block one off",
        (16,),
        same(FIXED),
        Truth(CACHED, (1,), near_block),
        cache.block_rows_one_short,
    ),
    Specimen(
        "neighbours of the block left out",
        (16,),
        same(f"{FIXED} cache=vicinity:warmup=0"),
        Truth(CACHED, (1,), outside_block),
        cache.no_vicinity,
    ),
    # The rows that are left out are those whose K/V are of before their commit.
    Specimen(
        "K/V kept from the commit on",
        (11, 16),
        same(f"{FIXED} cache=dkv"),
        Truth(from_forward(2), (1,), in_block),
        cache.kept_at_once,
    ),
    Specimen(
        "blocks end one late",
        (16,),
        same(FIXED),
        Truth(ALWAYS, where=near_block),
        cache.blocks_start_late,
    ),
    Specimen(
        "block length, by setting",
        (16,),
        (
            Pair(f"{FIXED} gen_length=32 block_length=16", f"{FIXED} gen_length=32 block_length=8"),
            Pair(f"{FIXED} gen_length=24 block_length=8", f"{FIXED} gen_length=24 block_length=24"),
        ),
        PARTED,
    ),
    Specimen(
        "length of the canvas, by setting",
        (16,),
        (
            Pair(
                f"{FIXED} gen_length=32 block_length=16", f"{FIXED} gen_length=48 block_length=16"
            ),
            Pair(f"{FIXED} gen_length=24 block_length=8", f"{FIXED} gen_length=32 block_length=8"),
        ),
        PARTED,
    ),
    Specimen("suffix window, by setting", (16,), against(FIXED, f"{FIXED} {WINDOW}"), PARTED),
    Specimen(
        "suffix window one too long",
        (15,),
        same(f"{FIXED} {WINDOW}"),
        Truth(ALWAYS, (1,), anywhere),
        sight.window_too_long(lambda at: 1),
    ),
    Specimen(
        "suffix window grows within its block",
        (15,),
        same(f"{FIXED} cache=none {WINDOW}"),
        Truth(CACHED, (1,), anywhere),
        sight.window_too_long(lambda at: at.step),
    ),
    Specimen(
        "the cache is never used",
        (23,),
        same(FIXED),
        Truth(CACHED, (1,), outside_block),
        cache.cache_never_used,
    ),
    Specimen(
        "start of the prompt left from before",
        (25,),
        same(FIXED),
        Truth(ALWAYS, (1,), first_positions(4)),
        cache.prompt_from_the_request_before(4),
    ),
    Specimen(
        "most of the prompt left from before",
        (25,),
        same(FIXED),
        Truth(ALWAYS, (1,), first_positions(12)),
        cache.prompt_from_the_request_before(12),
    ),
)
