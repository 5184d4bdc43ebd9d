"""What can be wrong with a cache policy that chooses, in or before each layer, the rows of it."""

from __future__ import annotations

from faults.cases.common import DLLM, DYLLM, FIXED
from faults.engine import choice, keeping
from faults.specimen import Specimen, same
from faults.truth import Truth, anywhere, chosen_otherwise, from_forward, joined_otherwise

ELASTIC = "cache=elastic:gamma=0.99"

OF_CHOICE = (
    Specimen(
        "kept of other rows",
        (13,),
        same(f"{FIXED} {DLLM}"),
        Truth(from_forward(1), (2,), anywhere),
        keeping.kept_of_other_rows(),
    ),
    Specimen(
        "kept once and never again",
        (12,),
        same(f"{FIXED} {DLLM}"),
        Truth(from_forward(2), (2, 3, 4), anywhere),
        keeping.kept_once(),
    ),
    Specimen(
        "never kept",
        (12,),
        same(f"{FIXED} {DLLM}"),
        Truth(from_forward(1), (2,), anywhere),
        keeping.never_kept(),
    ),
    Specimen(
        "a drift of attention is never found",
        (11,),
        same(f"{FIXED} {ELASTIC}"),
        Truth(joined_otherwise, where=anywhere),
        choice.no_drift(),
    ),
    Specimen(
        "attention that is alike has drifted",
        (11,),
        same(f"{FIXED} {ELASTIC}"),
        Truth(joined_otherwise, where=anywhere),
        choice.drift_inverted(0.99),
    ),
    Specimen(
        "rows join a layer late",
        (11,),
        same(f"{FIXED} {ELASTIC}"),
        Truth(joined_otherwise, where=anywhere),
        choice.a_layer_late(),
    ),
    Specimen(
        "rows that moved least are computed",
        (11,),
        same(f"{FIXED} {DLLM}"),
        Truth(chosen_otherwise, where=anywhere),
        choice.least_moved(),
    ),
    Specimen(
        "values are compared with themselves",
        (11,),
        same(f"{FIXED} {DLLM}"),
        Truth(chosen_otherwise, where=anywhere),
        choice.values_with_themselves(),
    ),
    Specimen(
        "half the share of the response",
        (11,),
        same(f"{FIXED} {DLLM}"),
        Truth(chosen_otherwise, where=anywhere),
        choice.half_the_share(),
    ),
    Specimen(
        "rows are chosen by number",
        (1,),
        same(f"{FIXED} {DLLM}"),
        Truth(chosen_otherwise, where=anywhere),
        choice.rows_by_number(),
    ),
    Specimen(
        "contexts are compared with themselves",
        (11,),
        same(f"{FIXED} {DYLLM}"),
        Truth(chosen_otherwise, where=anywhere),
        choice.contexts_with_themselves(),
    ),
    Specimen(
        "one layer chooses for all",
        (11,),
        same(f"{FIXED} {DYLLM}"),
        Truth(chosen_otherwise, where=anywhere),
        choice.chosen_once(),
    ),
    Specimen(
        "a lower threshold of contexts",
        (11,),
        same(f"{FIXED} {DYLLM}"),
        Truth(chosen_otherwise, where=anywhere),
        choice.lower_threshold(0.4),
    ),
)
