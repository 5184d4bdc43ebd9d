"""How fast a step could be at best, and from which batch on a token skip can pay.

The roofline (Williams et al., 2009): no product is faster than reading its operands, nor than its
arithmetic. Few rows are bound by reading the weights, which a skip does not avoid; from a few
hundred rows on they are bound by arithmetic, which it does.

Shape letters: N rows of a step over all requests, L canvas length, D width, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skipstone.engine.settings import Settings
from skipstone.errors import ConfigError, nearest
from skipstone.quoting import shown

if TYPE_CHECKING:
    import torch

    from skipstone.models.base import ModelConfig
    from skipstone.models.load import Model

WORTH_IT = 1.02
"""A skip that cannot make a step this much faster does not pay."""


@dataclass(frozen=True)
class Card:
    """What a device can do, in the dtype of the model."""

    name: str
    bandwidth: float
    """Bytes read a second."""
    flops: float
    """Operations of a matrix product a second; a multiplication and an addition are two."""
    source: str
    """``measured``, or ``datasheet``: then the real ones are some 10 to 20 % lower."""


CARDS = {
    "h100": Card("h100", 2.97e12, 786e12, "measured"),
    "h200": Card("h200", 4.3e12, 788e12, "measured"),
    "a100": Card("a100", 2.04e12, 312e12, "datasheet"),
    "l40s": Card("l40s", 0.864e12, 362e12, "datasheet"),
    "rtx4090": Card("rtx4090", 1.008e12, 165e12, "datasheet"),
}
"""bf16 figures of common cards: H100 SXM 80 GB, H200, A100 80 GB, L40S, RTX 4090."""


@dataclass(frozen=True)
class Work:
    """One cached step: every request computes the rows of its block."""

    batch: int
    block_length: int
    length: int
    """L, positions that attention reads."""
    skip_layer_k: int = 0
    """Rows may leave before this layer; 0 for no skip."""
    going: float = 1.0
    """Share of the rows that go on past that layer."""
    scored: float = 1.0
    """Share of the rows that need logits: those that are still masks."""

    @property
    def rows(self) -> int:
        """All rows of the step, N of them."""
        return self.batch * self.block_length

    def of(self, batch: int, skip_layer_k: int) -> Work:
        """The same for another batch and another K."""
        return replace(self, batch=batch, skip_layer_k=skip_layer_k)

    def without_skip(self) -> Work:
        """The same with every row going all the way."""
        return replace(self, skip_layer_k=0, going=1.0)


@dataclass(frozen=True)
class Bound:
    """The least time of a step."""

    seconds: float
    reading: float
    """Share of the time that is bound by reading, not by arithmetic."""


def bound(card: Card, config: ModelConfig, work: Work, *, weight_bytes: int = 2) -> Bound:
    """The least time that a step can take on a card.

    Norms, activations and the choice of tokens are left out: they can hide behind the products. Of
    experts, those count that the rows hit if each chooses at random.

    Args:
        card: what the device can do.
        config: the shape of the model.
        work: the step.
        weight_bytes: of one number: 2 for bfloat16.
    """
    deep = work.rows if not work.skip_layer_k else math.ceil(work.rows * work.going)
    scored = math.ceil(deep * work.scored)
    shallow = max(0, work.skip_layer_k - 1) if work.skip_layer_k else config.num_layers
    times = [
        *_layers(card, config, work, work.rows, range(shallow), weight_bytes),
        *_layers(card, config, work, deep, range(shallow, config.num_layers), weight_bytes),
        _product(card, config.vocab_size * config.width, scored, weight_bytes),
    ]
    if work.skip_layer_k:
        # The similarity reads the reference of every row; its own state is at hand.
        read = shallow * work.rows * config.width * weight_bytes
        times.append((read / card.bandwidth, 0.0))
    reading = sum(read for read, compute in times if read >= compute)
    total = sum(max(pair) for pair in times)
    return Bound(total, reading / total)


def saving(card: Card, config: ModelConfig, work: Work, *, weight_bytes: int = 2) -> float:
    """How many times faster the skip of ``work`` can make a step at best."""
    whole = bound(card, config, work.without_skip(), weight_bytes=weight_bytes)
    return whole.seconds / bound(card, config, work, weight_bytes=weight_bytes).seconds


def pays_from(card: Card, config: ModelConfig, work: Work, *, weight_bytes: int = 2) -> int | None:
    """The smallest batch, up to 1024, at which a skip can pay; None if there is none."""
    for batch in range(1, 1025):
        tried = work.of(batch, work.skip_layer_k)
        if saving(card, config, tried, weight_bytes=weight_bytes) >= WORTH_IT:
            return batch
    return None


def advice(model: Model, settings: Settings, batch: int, length: int) -> str | None:
    """Why a skip cannot pay here, if even one that keeps no row would save next to nothing.

    Args:
        model: where it runs; cards that are not in the table are given no advice.
        settings: of the run.
        batch: requests together.
        length: canvas length.
    """
    from skipstone.engine.forward.skipping import Skipping  # figures are computed without torch
    from skipstone.engine.layout import geometry_of

    network = model.network
    here = card_of(network.device)
    skipping = Skipping.start(settings.skip, geometry_of(network, 0, 0, 0))
    decides = () if skipping is None else skipping.stops
    if here is None or not decides:
        return None
    k = decides[0] + 1
    work = Work(batch, min(settings.whole_block, settings.gen_length), length, k, going=0.0)
    size = network.dtype.itemsize
    if saving(here, network.config, work, weight_bytes=size) >= WORTH_IT:
        return None
    first = pays_from(here, network.config, work, weight_bytes=size)
    return (
        f"the skip cannot make this run faster: {work.rows} rows a step are bound by reading the "
        f"weights, which a skip does not avoid; on this card it can pay "
        + (f"from batch {first} on" if first else "at no batch")
        + " (skipstone roofline has the figures)"
    )


def card(name: str) -> Card:
    """A card by its name here.

    Raises:
        ConfigError: it is not in the table.
    """
    if name not in CARDS:
        raise ConfigError(f"gpu {shown(name)} is unknown; {nearest(name, [*CARDS, 'here'])}")
    return CARDS[name]


def card_of(device: torch.device) -> Card | None:
    """The card of the table that a device is; None for others, and for a CPU."""
    if device.type != "cuda":
        return None
    import torch

    words = torch.cuda.get_device_name(device).lower().replace("geforce ", "").split()
    joined = "".join(words)
    return next((c for n, c in CARDS.items() if n in words or n in joined), None)


def measure(device: torch.device, dtype: torch.dtype) -> Card:
    """Measure what a device reads and computes in a dtype; takes about a second."""
    import torch

    cuda = device.type == "cuda"
    numbers = (1 << 30) if cuda else (1 << 25)
    side = 8192 if cuda else 1024
    here = torch.zeros(numbers, device=device, dtype=dtype)
    there = torch.empty_like(here)
    square = torch.randn(side, side, device=device).to(dtype)
    # A copy reads and writes: as many bytes each way.
    copied = _fastest(lambda: there.copy_(here), device)
    multiplied = _fastest(lambda: square @ square, device)
    name = torch.cuda.get_device_name(device) if cuda else "cpu"
    return Card(name, 2 * numbers * dtype.itemsize / copied, 2 * side**3 / multiplied, "measured")


def _layers(
    card: Card, config: ModelConfig, work: Work, rows: int, layers: range, weight_bytes: int
) -> list[tuple[float, float]]:
    """Seconds of reading and of arithmetic, for the products and the attention of some layers."""
    read, used = (sum(map(f, layers)) for f in (_read_by(config, rows), config.weights_used))
    cached = work.batch * work.length * config.kv_width * weight_bytes / card.bandwidth
    attended = 4 * rows * work.length * config.query_width / card.flops
    products = read * weight_bytes / card.bandwidth, 2 * used * rows / card.flops
    return [products, (len(layers) * cached, len(layers) * attended)]


def _read_by(config: ModelConfig, rows: int) -> Callable[[int], float]:
    return lambda layer: config.weights_read(layer, rows)


def _product(card: Card, weights: int, rows: int, weight_bytes: int) -> tuple[float, float]:
    return weights * weight_bytes / card.bandwidth, 2 * weights * rows / card.flops


def _fastest(work: Callable[[], torch.Tensor], device: torch.device) -> float:
    """The shortest of a few runs, in seconds."""
    times = list[float]()
    for _ in range(8):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - started)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
