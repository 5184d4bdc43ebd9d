"""All faults, with the settings at which each acts and the truth about it.

Numbers are those of docs/diagnoses.md. Where a setting can be the cause, there is a case without
injected code too.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from faults.engine import arithmetic, cache, decisions, sight, skip
from faults.engine.instead import Fault
from faults.specimen import NARROW, PROMPTS, WIDE, Pair, Specimen, against, same
from faults.truth import (
    ALWAYS,
    CACHED,
    EMPTY,
    SECOND_BLOCK,
    Truth,
    anywhere,
    candidates,
    drawn_otherwise,
    first_of_block,
    first_positions,
    from_forward,
    in_block,
    masks_skip,
    masks_stay,
    middle_row,
    near_block,
    outside_block,
    parted,
    scored_otherwise,
    skipped,
    skips_part,
    when,
)
from skipstone.engine import Engine, Settings
from skipstone.skip import CosineSkip
from skipstone.tracing import Recorder

SKIP = "unmask=fixed skip=cosine:skip_threshold=0.999"
LOOSE = "unmask=fixed skip=cosine:skip_threshold=0.99"
FIXED = "unmask=fixed"
SHORT_ANSWERS = (
    "Sort the words flower, water, eagle from A to Z.",
    "Repeat after me: silver, hammer, pencil.",
    "Write this list down once more: zebra, engine, violin.",
)
SURE = ("I have a question. What is Carl Sagan known for?", *PROMPTS[:2])
COMPANION = ("Quiz time! Tell me about David Hilbert, and about his home.",)


def math_kernel() -> AbstractContextManager[object]:
    """Attention as plain products, not fused."""
    return sdpa_kernel(SDPBackend.MATH)


def between(engine: Engine, prompt: str, fault: Fault) -> Settings:
    """Settings with a skip threshold between what A and B see for one row of the first cached step.

    Up to that step nothing can have skipped, so its similarities do not depend on the threshold.
    """
    a, b = _means(engine, prompt, nullcontext), _means(engine, prompt, fault)
    best = int(np.where(a != b, a, -1.0).argmax())
    policy = CosineSkip(skip_threshold=float(a[best] + b[best]) / 2)
    return engine.settings.replace(skip=policy)


def _means(engine: Engine, prompt: str, fault: Fault) -> np.ndarray:
    """Mean similarities of the rows of the first cached step that may skip; 0 for the others."""
    recorder = Recorder()
    with fault():
        engine.generate(prompt, observer=recorder)
    judged = recorder.records[0].steps[1].judgements
    assert judged is not None
    return np.where(judged.forced, 0.0, judged.mean)


IN_BLOCK = Truth(CACHED, where=in_block)
PARTED = Truth(parted)

OF_SKIP = (
    Specimen("reference by row number", (1,), same(SKIP), IN_BLOCK, skip.misaligned_reference),
    Specimen("reference one off", (1,), same(SKIP), IN_BLOCK, skip.reference_of_the_neighbour),
    Specimen(
        "references scattered backwards",
        (1,),
        same(SKIP),
        Truth(when(lambda s: s.step > 1), where=in_block),
        skip.reference_written_backwards,
    ),
    Specimen(
        "similarity in bfloat16, unstated",
        (2,),
        same(SKIP),
        IN_BLOCK,
        skip.low_precision_similarity(torch.bfloat16),
    ),
    Specimen(
        "similarity in float16, unstated",
        (2,),
        same(SKIP),
        IN_BLOCK,
        skip.low_precision_similarity(torch.float16),
    ),
    Specimen(
        "similarity in bfloat16, by setting",
        (2,),
        against(SKIP, f"{SKIP},similarity_dtype=bfloat16"),
        Truth(skips_part, where=in_block),
    ),
    Specimen(
        "threshold in the band, other order of sums",
        (3,),
        same(SKIP),
        Truth(skips_part, where=in_block),
        skip.other_summation,
        tune=between,
        lawful=True,
    ),
    Specimen(
        "threshold in the band, last bits of the embedding",
        (3,),
        same(SKIP),
        Truth(skips_part, where=in_block),
        arithmetic.last_bit,
        tune=between,
        lawful=True,
    ),
    Specimen(
        "committed rows skip",
        (12,),
        same(LOOSE),
        Truth(skips_part, where=skipped),
        skip.committed_rows_skip,
    ),
    Specimen(
        "one similar layer is enough to skip",
        (12,),
        same(SKIP),
        Truth(skips_part, where=skipped),
        skip.skip_by_the_best_layer,
    ),
    Specimen(
        "a skipped row is scored as it left",
        (12,),
        same(LOOSE),
        Truth(masks_skip, where=skipped),
        skip.exit_state_is_scored,
    ),
    Specimen("skip, by setting", (12,), against(FIXED, LOOSE), PARTED),
    # Whether the last skip or the ones before it decide is found by undoing the last one alone.
    Specimen(
        "skip that drifts, by setting",
        (20, 12),
        against(FIXED, f"{FIXED} skip=cosine:skip_threshold=0.97,reference=previous_step"),
        PARTED,
    ),
    Specimen("the skip is never asked", (23,), same(SKIP), IN_BLOCK, skip.skip_never_asked),
    # A lower threshold is a stated setting that is not the one that ran; what it does is skip rows
    # that may not.
    Specimen(
        "another skip threshold runs than is stated",
        (23, 12),
        same(SKIP),
        Truth(skips_part, where=in_block),
        skip.other_skip_threshold(0.98),
    ),
    Specimen(
        "a similarity divides by zero",
        (26,),
        same(SKIP),
        Truth(when(lambda s: s.step > 1), where=first_of_block),
        skip.similarity_divides_by_zero,
    ),
)

OF_DECISIONS = (
    # A loop that leaves a block with masks is a budget that ended, and a stop that came too early.
    Specimen(
        "a block is left early",
        (4, 21),
        same("unmask=threshold"),
        Truth(masks_stay, where=in_block),
        decisions.block_left_early,
    ),
    Specimen(
        "budget=stop, by setting",
        (4,),
        (
            Pair(f"{WIDE} unmask=threshold", f"{WIDE} unmask=threshold budget=stop steps=8"),
            Pair(f"{NARROW} unmask=threshold", f"{NARROW} unmask=threshold budget=stop steps=6"),
        ),
        Truth(masks_stay, where=in_block),
        prompts=SURE,
    ),
    Specimen(
        "every other choice is empty",
        (5,),
        same(FIXED),
        Truth(EMPTY, where=candidates),
        decisions.every_other_choice_is_empty,
    ),
    Specimen(
        "nothing is committed below the threshold",
        (5,),
        same("unmask=threshold:value=0.95"),
        Truth(EMPTY, where=candidates),
        decisions.never_the_best_alone,
    ),
    # Nothing in the traces says where the noise comes from: only that it decides. Two tokens are
    # equally likely, and so are positions at which they compete: either tie can break first.
    Specimen(
        "near tie of two tokens",
        (6, 7),
        same(FIXED),
        Truth(parted, where=in_block),
        arithmetic.last_bit,
        model="twins",
        lawful=True,
    ),
    Specimen(
        "ties from the right",
        (7,),
        same(FIXED),
        Truth(parted, where=candidates),
        decisions.ties_from_the_right,
        model="sharp",
    ),
    Specimen(
        "ties in no order",
        (7,),
        same(FIXED),
        Truth(parted, where=candidates),
        decisions.ties_at_random,
        model="sharp",
    ),
    Specimen(
        "confidence in bfloat16",
        (8,),
        same(FIXED),
        Truth(scored_otherwise, where=candidates),
        decisions.confidence_in(torch.bfloat16),
    ),
    Specimen(
        "confidence in float16",
        (8,),
        same(FIXED),
        Truth(scored_otherwise, where=candidates),
        decisions.confidence_in(torch.float16),
    ),
    Specimen(
        "confidence in float32",
        (8,),
        same(FIXED),
        Truth(scored_otherwise, where=candidates),
        decisions.confidence_in(torch.float32),
        model="sharp",
    ),
    Specimen(
        "a lower threshold runs than is stated",
        (9, 23),
        same("unmask=threshold"),
        Truth(parted, where=candidates),
        decisions.threshold_too_low(0.3),
        prompts=SURE,
    ),
    Specimen(
        "the factor's bound does not rise",
        (9,),
        same("unmask=factor:value=1.5"),
        Truth(parted, where=candidates),
        decisions.factor_without_rank,
        prompts=SURE,
    ),
    Specimen(
        "threshold, by setting",
        (9,),
        against("unmask=threshold", "unmask=threshold:value=0.4"),
        Truth(parted, where=candidates),
        prompts=SURE,
    ),
    Specimen(
        "factor, by setting",
        (9,),
        against("unmask=factor:value=0.5", "unmask=factor:value=2"),
        Truth(parted, where=candidates),
        prompts=SURE,
    ),
    Specimen(
        "leftmost first",
        (10,),
        same(FIXED),
        Truth(parted, where=candidates),
        decisions.leftmost_first,
    ),
    Specimen(
        "random order, by setting",
        (10,),
        against(FIXED, "unmask=fixed:order=random seed=1"),
        Truth(parted, where=candidates),
    ),
    Specimen(
        "EOS stops too early",
        (21,),
        same(FIXED),
        Truth(parted, where=in_block),
        decisions.stop_before_the_left_is_done,
        prompts=SHORT_ANSWERS,
    ),
    Specimen(
        "EOS never stops",
        (21,),
        same(FIXED),
        Truth(parted, where=anywhere),
        decisions.eos_never_stops,
        prompts=SHORT_ANSWERS,
    ),
    Specimen(
        "no stop at EOS, by setting",
        (21,),
        against(FIXED, f"{FIXED} eos_stop=false"),
        Truth(parted, where=anywhere),
        prompts=SHORT_ANSWERS,
    ),
    Specimen(
        "noise at temperature 0",
        (22,),
        same(FIXED),
        Truth(ALWAYS, where=candidates),
        decisions.noise_at_temperature_zero,
    ),
    Specimen(
        "one draw too many",
        (22,),
        same(f"{FIXED} temperature=0.7 seed=3"),
        Truth(drawn_otherwise, where=candidates),
        decisions.one_draw_too_many,
    ),
    Specimen(
        "seed, by setting",
        (22,),
        against(f"{FIXED} temperature=0.7 seed=3", f"{FIXED} temperature=0.7 seed=4"),
        Truth(parted, where=candidates),
    ),
    Specimen(
        "temperature, by setting",
        (22,),
        against(FIXED, f"{FIXED} temperature=1.0 seed=4"),
        Truth(parted, where=candidates),
    ),
    Specimen(
        "half the steps",
        (24,),
        same(FIXED),
        Truth(parted, where=candidates),
        decisions.half_the_steps,
    ),
    Specimen(
        "shares rounded down",
        (24,),
        (
            Pair(f"{WIDE} {FIXED} steps=12", f"{WIDE} {FIXED} steps=12"),
            Pair(f"{NARROW} {FIXED} steps=9", f"{NARROW} {FIXED} steps=9"),
        ),
        Truth(parted, where=candidates),
        decisions.share_rounded_down,
    ),
    Specimen(
        "steps, by setting",
        (24,),
        against(FIXED, f"{FIXED} steps=8"),
        Truth(parted, where=candidates),
    ),
    # Without running B again, its trace says only that its numbers are not those of its seed.
    Specimen(
        "draws without a seed",
        (30,),
        same(f"{FIXED} temperature=0.7 seed=3"),
        Truth(drawn_otherwise, where=candidates),
        decisions.draws_without_a_seed,
        from_trace=(22,),
    ),
)

OF_CACHE = (
    Specimen(
        "no refresh at the second block",
        (11,),
        same(FIXED),
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
        same(FIXED),
        Truth(SECOND_BLOCK, (17,), first_positions(8)),
        cache.refresh_stops_half_way,
    ),
    Specimen("dual cache, by setting", (11,), against(f"{FIXED} cache=none", FIXED), PARTED),
    Specimen(
        "prefix cache, by setting",
        (11,),
        against(f"{FIXED} cache=none", f"{FIXED} cache=prefix"),
        PARTED,
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

OF_ARITHMETIC = (
    Specimen(
        "noise of a padded batch",
        (17,),
        same(FIXED),
        Truth(parted, where=in_block),
        model="twins",
        lawful=True,
        companions=COMPANION,
    ),
    Specimen(
        "attention backend, float32",
        (18,),
        same(FIXED),
        Truth(parted, where=in_block),
        math_kernel,
        model="twins",
        lawful=True,
    ),
    Specimen(
        "attention backend, bfloat16",
        (18,),
        same(FIXED),
        Truth(parted, where=candidates),
        math_kernel,
        model="bfloat16",
        lawful=True,
        prompts=SURE,
    ),
    *(
        Specimen(name, (19,), same(FIXED), Truth(ALWAYS, (layer,), anywhere), fault)
        for name, layer, fault in (
            ("sigmoid for SiLU", 8, arithmetic.wrong_layer(7)),
            ("attention scores not scaled", 4, arithmetic.attention_too_sharp(3)),
            ("gate and up swapped", 21, arithmetic.gate_and_up_swapped(20)),
            ("embedding scaled", 0, arithmetic.embedding_too_large),
            ("last norm without its weight", 32, arithmetic.head_without_norm),
        )
    ),
    Specimen(
        "NaN in a layer",
        (26,),
        same(FIXED),
        Truth(from_forward(4), (10,), middle_row),
        arithmetic.not_a_number(9),
    ),
    Specimen(
        "a layer overflows",
        (26,),
        same(FIXED),
        Truth(from_forward(4), (20,), middle_row),
        arithmetic.layer_overflows(19),
    ),
    Specimen(
        "an infinite logit",
        (26,),
        same(FIXED),
        Truth(from_forward(3), (32,), candidates),
        arithmetic.infinite_logit,
    ),
    *(
        Specimen(name, (27,), same(FIXED), Truth(ALWAYS, (1,), anywhere), fault)
        for name, fault in (
            ("values in 8 bits", arithmetic.eight_bit_values),
            ("keys in 4 bits", arithmetic.four_bit_keys),
            ("K/V in float16", arithmetic.half_precision_keys),
            ("states in bfloat16", arithmetic.states_cast_to_bfloat16),
        )
    ),
    Specimen("other weights in one layer", (28,), same(FIXED), Truth(ALWAYS), model_b="layer 5"),
    # Quantised weights are other weights: their fingerprint says so before anything is measured.
    Specimen("weights in 8 bits", (28, 27), same(FIXED), Truth(ALWAYS), model_b="eight bits"),
    Specimen(
        "another prompt template",
        (28,),
        same(FIXED),
        Truth(ALWAYS, where=anywhere),
        prompt_b=lambda prompt: f"{prompt}\n",
    ),
    # A trace is made by a recorder: what it changes shows only beside a run without one.
    Specimen(
        "recording breaks values",
        (29,),
        same(FIXED),
        Truth(from_forward(1), where=anywhere),
        arithmetic.recording_changes_the_run,
        from_trace=(),
    ),
    Specimen(
        "recording moves keys",
        (29,),
        same(FIXED),
        Truth(from_forward(1), where=anywhere),
        arithmetic.recording_moves_the_keys,
        from_trace=(),
    ),
    # One trace of a run that is never the same twice says only that its states are wrong.
    Specimen(
        "states are noisy",
        (30,),
        same(FIXED),
        Truth(ALWAYS, where=anywhere),
        arithmetic.different_every_time,
        from_trace=(),
    ),
)

SPECIMENS: tuple[Specimen, ...] = (*OF_SKIP, *OF_DECISIONS, *OF_CACHE, *OF_ARITHMETIC)
