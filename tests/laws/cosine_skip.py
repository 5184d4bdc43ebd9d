"""A slow, literal decoder of one prompt, written from the rules alone.

It keeps keys and values in lists by layer and position, computes one row at a time in float64
numpy, and takes every decision in a plain loop. It exists to be compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, inf
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skipstone.models.parts.decoder import Decoder

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class SkipRule:
    """The token skip; the deep layers are ``layer_k`` and those after it, counted from 1."""

    layer_k: int
    threshold: float
    outlier: float
    reference: Literal["last_computed", "previous_step"] = "last_computed"
    keep_committed: bool = True
    keep_neighbours: bool = True


@dataclass(frozen=True)
class Rules:
    """How the oracle decodes."""

    gen_length: int
    block_length: int
    cache: Literal["none", "prefix", "dual"]
    refresh_every: int
    unmask: Literal["fixed", "threshold", "factor"]
    value: float
    steps: int | None
    skip: SkipRule | None
    eos_stop: bool
    budget: Literal["finish", "stop"]


@dataclass(frozen=True)
class Done:
    """What one forward of the oracle did."""

    block: int
    step: int
    recovery: bool
    skipped: frozenset[int]
    committed: tuple[int, ...]
    old_commits: tuple[int, ...]


class Net:
    """The network, one row at a time, from the tensors as they are published."""

    def __init__(self, network: Decoder) -> None:
        self.config = network.config
        self.weights = {
            name.removeprefix("model.transformer."): tensor.double().numpy().copy()
            for name, tensor in network.published().items()
        }

    def norm(self, x: Vector, name: str) -> Vector:
        scale = np.sqrt(np.mean(x * x) + self.config.norm_eps)
        return x / scale * self.weights[f"{name}.weight"]

    def linear(self, x: Vector, name: str) -> Vector:
        return self.weights[f"{name}.weight"] @ x

    def turn(self, head: Vector, position: int) -> Vector:
        """Rotate one head; first and second half of it are the two coordinates."""
        half = head.shape[0] // 2
        turned = np.empty_like(head)
        for i in range(half):
            # The published tables are float32, whatever the dtype of the weights.
            power = np.float32(self.config.rope_theta) ** np.float32(2 * i / (2 * half))
            angle = np.float32(position) / power
            cos, sin = float(np.cos(angle)), float(np.sin(angle))
            turned[i] = head[i] * cos - head[i + half] * sin
            turned[i + half] = head[i + half] * cos + head[i] * sin
        return turned

    def key_value(self, layer: int, x: Vector, position: int) -> tuple[list[Vector], list[Vector]]:
        root, heads = f"blocks.{layer - 1}", self.config.num_kv_heads
        normed = self.norm(x, f"{root}.attn_norm")
        keys = np.split(self.linear(normed, f"{root}.k_proj"), heads)
        values = np.split(self.linear(normed, f"{root}.v_proj"), heads)
        return [self.turn(key, position) for key in keys], values

    def row(self, layer: int, x: Vector, position: int, keys: Vector, values: Vector) -> Vector:
        """The state after ``layer``; keys and values are [L, U, E] of the whole canvas."""
        root, config = f"blocks.{layer - 1}", self.config
        queries = np.split(
            self.linear(self.norm(x, f"{root}.attn_norm"), f"{root}.q_proj"), config.num_heads
        )
        shared = config.num_heads // config.num_kv_heads
        mixed = list[Vector]()
        for i, query in enumerate(queries):
            turned = self.turn(query, position)
            scores = keys[:, i // shared] @ turned / np.sqrt(config.head_width)
            weights = np.exp(scores - scores.max())
            mixed.append(weights / weights.sum() @ values[:, i // shared])
        x = x + self.linear(np.concatenate(mixed), f"{root}.attn_out")
        normed = self.norm(x, f"{root}.ff_norm")
        gate = self.linear(normed, f"{root}.ff_proj")
        up = self.linear(normed, f"{root}.up_proj")
        return x + self.linear(gate / (1.0 + np.exp(-gate)) * up, f"{root}.ff_out")

    def guess(self, x: Vector) -> tuple[int, float]:
        """The best token that is not the mask, and its probability among all."""
        logits = self.weights["ff_out.weight"] @ self.norm(x, "ln_f")
        best, total = -1, 0.0
        for token, logit in enumerate(logits):
            total += float(np.exp(logit - logits.max()))
            if token != self.config.mask_id and (best < 0 or logit > logits[best]):
                best = token
        return best, float(np.exp(logits[best] - logits.max())) / total


@dataclass
class Oracle:
    """Decodes one prompt; ``log`` has one entry for each forward."""

    net: Net
    rules: Rules
    prompt: list[int]
    log: list[Done] = field(default_factory=list)

    def decode(self) -> list[int]:
        """The new tokens, masks that are left included."""
        start, rules, config = len(self.prompt), self.rules, self.net.config
        self.ids = [*self.prompt, *[config.mask_id] * rules.gen_length]
        self.masked = [False] * start + [True] * rules.gen_length
        self.keys = self._slots()
        self.values = self._slots()
        self.reference = dict[tuple[int, int], Vector]()
        self.guesses = dict[int, tuple[int, float]]()
        self.just_committed = list[int]()
        num_blocks = ceil(rules.gen_length / rules.block_length)
        for block in range(num_blocks):
            first = start + block * rules.block_length
            self._block(block, first, min(first + rules.block_length, len(self.ids)))
        return self.ids[start:]

    def _slots(self) -> Vector:
        config = self.net.config
        shape = (config.num_layers, len(self.ids), config.num_kv_heads, config.head_width)
        return np.full(shape, np.nan)

    def _block(self, block: int, first: int, stop: int) -> None:
        rules, start = self.rules, len(self.prompt)
        budget = stop - first
        if rules.steps is not None:
            upto = [rules.steps * (end - start) // rules.gen_length for end in (first, stop)]
            budget = upto[1] - upto[0]
        step = 0
        while any(self.masked[first:stop]) and (rules.budget == "finish" or step < budget):
            refresh = step == 0 or (rules.refresh_every > 0 and step % rules.refresh_every == 0)
            rows, may_skip = list(range(len(self.ids))), step > 0
            if rules.cache != "none":
                may_skip = not refresh
            if rules.cache == "prefix" and not refresh:
                rows = rows[first:]
            if rules.cache == "dual" and not refresh:
                rows = rows[first:stop]
            quota = ceil(sum(self.masked[first:stop]) / max(1, budget - step))
            if not self._forward(block, step, rows, stop, quota, may_skip, False):
                everything = list(range(len(self.ids)))
                assert self._forward(block, step, everything, stop, quota, False, True)
            step += 1

    def _forward(
        self,
        block: int,
        step: int,
        rows: list[int],
        stop: int,
        quota: int,
        may_skip: bool,
        recovery: bool,
    ) -> bool:
        """One forward over ``rows`` and its commit; whether anything was committed."""
        finished = self._compute(rows, may_skip)
        for position, x in finished.items():
            if self.masked[position] and position < stop:
                self.guesses[position] = self.net.guess(x)
        ranking = self._ranking([p for p in rows if self.masked[p] and p < stop], finished)
        chosen = self._choose(ranking, quota)
        for position in chosen:
            self.ids[position] = self.guesses[position][0]
            self.masked[position] = False
        self.just_committed = chosen
        self.log.append(
            Done(
                block=block,
                step=step,
                recovery=recovery,
                skipped=frozenset(rows) - frozenset(finished),
                committed=tuple(sorted(chosen)),
                old_commits=tuple(sorted(p for p in chosen if p not in finished)),
            )
        )
        if self.rules.eos_stop:
            self._stop_at_eos()
        return bool(chosen)

    def _compute(self, rows: list[int], may_skip: bool) -> dict[int, Vector]:
        """States after the last layer of the rows that went all the way."""
        skip = self.rules.skip
        states = {p: self.net.weights["wte.weight"][self.ids[p]] for p in rows}
        shallow = dict[tuple[int, int], Vector]()
        for layer in range(1, self.net.config.num_layers + 1):
            for position, x in states.items():
                keys, values = self.net.key_value(layer, x, position)
                self.keys[layer - 1, position] = keys
                self.values[layer - 1, position] = values
            kv = self.keys[layer - 1], self.values[layer - 1]
            states = {p: self.net.row(layer, x, p, *kv) for p, x in states.items()}
            if skip is None or layer >= skip.layer_k:
                continue
            shallow |= {(layer, p): x for p, x in states.items()}
            if layer == skip.layer_k - 1 and may_skip:
                states = {p: x for p, x in states.items() if not self._leaves(skip, p, shallow)}
        for (layer, position), x in shallow.items():
            if position in states or (skip is not None and skip.reference == "previous_step"):
                self.reference[layer, position] = x
        return states

    def _leaves(
        self, skip: SkipRule, position: int, shallow: dict[tuple[int, int], Vector]
    ) -> bool:
        if skip.keep_committed and position in self.just_committed:
            return False
        beside = (position - 1 in self.just_committed) or (position + 1 in self.just_committed)
        if skip.keep_neighbours and beside:
            return False
        cosines = list[float]()
        for layer in range(1, skip.layer_k):
            now, before = shallow[layer, position], self.reference[layer, position]
            cosine = float(now @ before) / float(np.linalg.norm(now) * np.linalg.norm(before))
            cosines.append(min(1.0, cosine))
        return min(cosines) >= skip.outlier and sum(cosines) / len(cosines) > skip.threshold

    def _ranking(self, masks: list[int], finished: dict[int, Vector]) -> list[int]:
        """Masks that may be committed, most confident first; equal ones from the left."""
        ranked = sorted(masks, key=lambda p: (-self.guesses[p][1], p))
        return [p for place, p in enumerate(ranked) if p in finished or place == 0]

    def _choose(self, ranking: list[int], quota: int) -> list[int]:
        rules = self.rules
        confidence = [self.guesses[p][1] for p in ranking]
        if rules.unmask == "fixed":
            return ranking[:quota]
        if rules.unmask == "threshold":
            return [p for i, p in enumerate(ranking) if i == 0 or confidence[i] >= rules.value]
        count = min(1, len(ranking))
        for n in range(2, len(ranking) + 1):
            if confidence[n - 1] < 1.0 - rules.value / (n + 1):
                break
            count = n
        return ranking[:count]

    def _stop_at_eos(self) -> None:
        lowest = inf
        for position in range(len(self.prompt), len(self.ids)):
            if self.masked[position]:
                lowest = min(lowest, position)
            elif self.ids[position] == self.net.config.eos_id:
                if position < lowest:
                    for later in range(position, len(self.ids)):
                        if self.masked[later]:
                            self.ids[later], self.masked[later] = self.net.config.eos_id, False
                return
