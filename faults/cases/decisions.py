"""What can be wrong with decisions: which masks are committed, as what, and when it ends."""

from __future__ import annotations

import torch

from faults.cases.common import FIXED, SHORT_ANSWERS, SURE
from faults.engine import arithmetic, decisions
from faults.specimen import NARROW, WIDE, Pair, Specimen, against, same
from faults.truth import (
    ALWAYS,
    EMPTY,
    Truth,
    anywhere,
    candidates,
    drawn_otherwise,
    in_block,
    masks_stay,
    parted,
    scored_otherwise,
    still_changing,
)

# The embedded model is sure of most tokens: at less, seeds draw the same ones.
WARM = "temperature=2.0"
# Most answers end within four steps at a lower threshold.
SLOW = "unmask=threshold:value=0.999 eos_stop=false"

OF_DECISIONS = (
    # A loop that leaves a block with masks is a budget that ended, and a stop that came too early.
    Specimen(
        "a block is left early",
        (4, 21),
        same(SLOW),
        Truth(masks_stay, where=in_block),
        decisions.block_left_early,
    ),
    Specimen(
        "budget=stop, by setting",
        (4,),
        (
            Pair(f"{WIDE} {SLOW}", f"{WIDE} {SLOW} budget=stop steps=8"),
            Pair(f"{NARROW} {SLOW}", f"{NARROW} {SLOW} budget=stop steps=6"),
        ),
        Truth(masks_stay, where=in_block),
        prompts=SURE,
    ),
    Specimen(
        "every other choice is empty",
        (5,),
        same(FIXED),
        Truth(EMPTY, where=candidates),
        decisions.empty_choice_of(2),
    ),
    Specimen(
        "nothing is committed below the threshold",
        (5,),
        same(SLOW),
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
        "credit does not fade",
        (31,),
        same("unmask=credit:alpha=2,beta=0.3"),
        Truth(scored_otherwise, where=candidates),
        decisions.credit_that_stays,
        prompts=SURE,
    ),
    # Its steps say how many are due where none is ready: that is a schedule, too.
    Specimen(
        "what still moves is committed",
        (9, 24),
        same("unmask=klass:value=0.8"),
        Truth(parted, where=candidates),
        decisions.what_still_moves,
        prompts=SURE,
    ),
    Specimen(
        "a filling commits what is not sure",
        (9,),
        same("unmask=slow_fast"),
        Truth(parted, where=candidates),
        decisions.fills_what_is_not_sure,
        prompts=SURE,
    ),
    Specimen(
        "every mask is near an anchor",
        (9,),
        same("unmask=local_leap:value=0.9,relaxed=0.4,radius=1"),
        Truth(parted, where=candidates),
        decisions.anchors_everywhere,
        prompts=SURE,
    ),
    # What comes first may be less confident than what is taken: that is no order by confidence.
    Specimen(
        "what is decided makes its neighbours less certain",
        (10, 31),
        same("unmask=certainty:sigma=2"),
        Truth(parted, where=candidates),
        decisions.density_of_masks,
    ),
    Specimen(
        "certainty prior, by setting",
        (10,),
        against("unmask=certainty:sigma=1000", "unmask=certainty:sigma=2"),
        Truth(parted, where=candidates),
    ),
    Specimen(
        "the bound of edits does not arrive",
        (31,),
        same("unmask=editing:threshold=0.3"),
        Truth(parted, where=candidates),
        decisions.edits_at_any_odds,
        prompts=SURE,
    ),
    Specimen(
        "a token that is doubted stays",
        (31,),
        same("unmask=wino"),
        Truth(parted, where=in_block),
        decisions.revocation_forgotten,
        prompts=SURE,
    ),
    Specimen(
        "a block ends while tokens of it change",
        (31,),
        same("unmask=editing:threshold=0.2,edit=0.1,post_steps=4"),
        Truth(still_changing, where=in_block),
        decisions.ends_while_it_changes,
        prompts=SURE[:2],
    ),
    Specimen(
        "the bound of edits, by setting",
        (31,),
        against("unmask=editing:threshold=0.3", "unmask=editing:threshold=0.3,edit=0.4"),
        Truth(parted, where=candidates),
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
        same(f"{FIXED} {WARM} seed=3"),
        Truth(drawn_otherwise, where=candidates),
        decisions.one_draw_too_many,
    ),
    Specimen(
        "seed, by setting",
        (22,),
        against(f"{FIXED} {WARM} seed=3", f"{FIXED} {WARM} seed=4"),
        Truth(parted, where=candidates),
    ),
    Specimen(
        "temperature, by setting",
        (22,),
        against(FIXED, f"{FIXED} {WARM} seed=4"),
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
        same(f"{FIXED} {WARM} seed=3"),
        Truth(drawn_otherwise, where=candidates),
        decisions.draws_without_a_seed,
        from_trace=(22,),
    ),
)
