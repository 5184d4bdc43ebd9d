"""Compare records and traces of runs. No torch here."""

from skipstone.diff.align import Alignment, Pair, align
from skipstone.diff.compare import Comparison, SimilaritySummary, compare
from skipstone.diff.difference import Difference, diff
from skipstone.diff.divergence import Divergence
from skipstone.diff.floor import Floor, estimated_floor, floor_from, logit_gap
from skipstone.diff.margins import Closeness, Margins
from skipstone.diff.states import RowErrors, TensorPair, tensor_pairs
from skipstone.diff.tensor_search import TensorDivergence

__all__ = [
    "Alignment",
    "Closeness",
    "Comparison",
    "Difference",
    "Divergence",
    "Floor",
    "Margins",
    "Pair",
    "RowErrors",
    "SimilaritySummary",
    "TensorDivergence",
    "TensorPair",
    "align",
    "compare",
    "diff",
    "estimated_floor",
    "floor_from",
    "logit_gap",
    "tensor_pairs",
]
