"""What can be wrong with a skip: its references, its similarities, and which rows may leave."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch

from faults.cases.common import FIXED, IN_BLOCK, LOOSE, PARTED, SKIP
from faults.engine import arithmetic, skip
from faults.engine.instead import Fault
from faults.specimen import Specimen, against, same
from faults.truth import Truth, first_of_block, in_block, masks_skip, skipped, skips_part, when
from skipstone.engine import Engine, Settings
from skipstone.skip import CosineSkip
from skipstone.tracing import Recorder

ONCE = f"{FIXED} cache=once:refresh_every=0"
RATIO = f"{ONCE} skip=ratio:keep=0.5@0.25"
DEPTHS = f"{ONCE} eos_stop=false skip=ratio:keep=0.5@0.1+0.3@0.5,keep_neighbours=false"
STAGED = Truth(skips_part, where=in_block)
"""Rows leave, or go on, at a depth where they should not."""


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


OF_SKIP = (
    # In an answer of four steps no row skips otherwise for these.
    Specimen(
        "reference by row number",
        (1,),
        same(f"{SKIP} eos_stop=false"),
        IN_BLOCK,
        skip.misaligned_reference,
    ),
    Specimen(
        "reference one off",
        (1,),
        same(f"{SKIP} eos_stop=false"),
        IN_BLOCK,
        skip.reference_of_the_neighbour,
    ),
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
        same(f"{SKIP} eos_stop=false"),
        IN_BLOCK,
        skip.low_precision_similarity(torch.float16),
    ),
    Specimen(
        "similarity in bfloat16, by setting",
        (2,),
        against(f"{SKIP} eos_stop=false", f"{SKIP},similarity_dtype=bfloat16 eos_stop=false"),
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
    Specimen("ratio skip, by setting", (20, 12), against(ONCE, RATIO), PARTED),
    Specimen(
        "rows are chosen by the confidence of the step before",
        (12,),
        same(RATIO),
        Truth(skips_part, where=skipped),
        skip.older_confidence,
    ),
    Specimen(
        "a row that leaves renews its state",
        (12,),
        same(RATIO),
        Truth(skips_part, where=skipped),
        skip.state_of_rows_that_leave,
    ),
    Specimen(
        "rows that leave renew their state at two depths",
        (12,),
        same(DEPTHS),
        STAGED,
        skip.state_of_rows_that_leave,
    ),
    Specimen(
        "states are never renewed at two depths",
        (12,),
        same(DEPTHS),
        STAGED,
        skip.states_never_renewed,
    ),
    Specimen(
        "committed rows keep their confidence",
        (12,),
        same(DEPTHS),
        STAGED,
        skip.committed_rows_keep_their_confidence,
    ),
    Specimen(
        "states are taken by number of row",
        (1,),
        same(DEPTHS),
        STAGED,
        skip.states_by_number_of_row,
    ),
    Specimen(
        "the second depth has the share of the first",
        (23,),
        same(DEPTHS),
        STAGED,
        skip.share_of_the_first_depth,
    ),
    Specimen(
        "the confidence has no weight", (23,), same(DEPTHS), STAGED, skip.confidence_has_no_weight
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
