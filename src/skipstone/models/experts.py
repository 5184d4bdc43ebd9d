"""What config.json and files of mixtures of experts have in common."""

from __future__ import annotations

from skipstone.models.fields import Fields

# More would be a typing error; a checkpoint has three weights for each of them in every layer.
_MOST_EXPERTS = 4096

NAMES = {
    "router": "mlp.gate.weight",
    "experts.gate": "mlp.experts.{}.gate_proj.weight",
    "experts.up": "mlp.experts.{}.up_proj.weight",
    "experts.down": "mlp.experts.{}.down_proj.weight",
}
"""Names of a router and of its experts, by place."""

ANY_FLOAT = frozenset(("router",))
"""Places of weights that published files also hold in float32."""


def counts(fields: Fields) -> tuple[int, int]:
    """How many experts there are, and how many a row goes through.

    Raises:
        CheckpointError: one is missing, or a row would go through more than there are.
    """
    num_experts = fields.integer("num_experts", most=_MOST_EXPERTS)
    top_k = fields.integer("num_experts_per_tok")
    if top_k > num_experts:
        raise fields.refuse(
            f"num_experts_per_tok {top_k} is more than num_experts {num_experts}; check both"
        )
    return num_experts, top_k
