"""What published checkpoints call the weights, by the place of each in the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class WeightNames:
    """Names by place, in the order of the published files.

    The same weight has several places where files may hold it fused or in parts, as ``qkv`` or as
    ``q``, ``k`` and ``v``; whoever names them chooses. What a network does not have is passed over.
    """

    outer: Mapping[str, str]
    """Outside the layers: ``embedding``, ``norm``, and ``head``, which a tied one leaves out."""
    layer: str
    """What precedes the names of a layer, with ``{}`` for its index."""
    inner: Mapping[str, str]
    """Within a layer: the places of ``Layer.places``; with ``{}`` for the index of an expert, where
    the weights of all of them are one tensor."""
    any_float: frozenset[str] = frozenset()
    """Those of ``inner`` that files may hold in another dtype than all the others."""

    def of(
        self, outer: Mapping[str, Tensor], layers: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Weights by name, from those by place."""
        named = {name: outer[place] for place, name in self.outer.items() if place in outer}
        for index, layer in enumerate(layers):
            prefix = self.layer.format(index)
            named |= {prefix + name: layer[p] for p, name in self.inner.items() if p in layer}
        return {name: w for stacked in named.items() for name, w in _parts(*stacked)}

    def takes_any_float(self, name: str) -> bool:
        """Whether files may hold the weight of this name in another dtype than the others."""
        return name.endswith(tuple(f".{self.inner[place]}" for place in self.any_float))


def _parts(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A weight, or those of all experts, each by its name."""
    if "{}" not in name:
        yield name, weight
        return
    for expert, part in enumerate(weight):
        yield name.format(expert), part


LLAMA_NAMES = WeightNames(
    outer={
        "embedding": "model.embed_tokens.weight",
        "norm": "model.norm.weight",
        "head": "lm_head.weight",
    },
    layer="model.layers.{}.",
    inner={
        "attention_norm": "input_layernorm.weight",
        "q": "self_attn.q_proj.weight",
        "k": "self_attn.k_proj.weight",
        "v": "self_attn.v_proj.weight",
        "q.bias": "self_attn.q_proj.bias",
        "k.bias": "self_attn.k_proj.bias",
        "v.bias": "self_attn.v_proj.bias",
        "q_norm": "self_attn.q_norm.weight",
        "k_norm": "self_attn.k_norm.weight",
        "out": "self_attn.o_proj.weight",
        "mlp_norm": "post_attention_layernorm.weight",
        "gate": "mlp.gate_proj.weight",
        "up": "mlp.up_proj.weight",
        "down": "mlp.down_proj.weight",
    },
)
"""The names of Llama and Qwen, which most checkpoints have."""
