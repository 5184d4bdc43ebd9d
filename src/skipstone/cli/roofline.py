"""``skipstone roofline``: at which batch a token skip pays, before anybody spends a day on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from skipstone.cli.options import parse_numbers
from skipstone.cli.tables import say_table
from skipstone.cli.terminal import say, say_json
from skipstone.engine import roofline as roof
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.models.base import ModelConfig

_CARDS = ", ".join(roof.CARDS)


@dataclass(frozen=True)
class Point:
    """One batch with one K."""

    batch: int
    rows: int
    ms: float
    """Least time of the step without skip."""
    reading: float
    """Share of it that is bound by reading."""
    skip_layer_k: int
    ms_with_skip: float
    times_faster: float


@click.command("roofline")
@click.option(
    "--model",
    default="llada-8b",
    help="llada-8b, dream-7b, sdar-8b, llada-moe, llada2-mini, pebble, a directory, or a hub name.",
)
@click.option("--gpu", default="h100", help=f"{_CARDS}, or here: measured.  [default: h100]")
@click.option("--batch", default="1,2,4,8,16,32,64", show_default=True, help="Requests together.")
@click.option("--block-length", default=32, show_default=True, help="Rows of a request in a step.")
@click.option("--length", default=512, show_default=True, help="Prompt and new positions.")
@click.option("--skip-layer-k", default="4,8,18", show_default=True, help="First layers to skip.")
@click.option("--going", default=0.25, show_default=True, help="Share of rows that go on there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, expose_value=False, help="Print tracebacks.")
def roofline(
    *,
    model: str,
    gpu: str,
    batch: str,
    block_length: int,
    length: int,
    skip_layer_k: str,
    going: float,
    as_json: bool,
) -> None:
    """Show the least time of a cached step, and how much of it a skip can save at best."""
    from skipstone.models import locate
    from skipstone.models.config import read_config
    from skipstone.models.shapes import SHAPES

    config = SHAPES[model] if model in SHAPES else read_config(locate.find(model))
    _check(config, block_length, length, going)
    layers = parse_numbers("--skip-layer-k", skip_layer_k, 2, config.num_layers)
    batches = parse_numbers("--batch", batch, 1, 1 << 16)
    card, size = _card(gpu)
    work = roof.Work(1, block_length, length, layers[0], going)
    points = [_point(card, config, work.of(b, k), size) for b in batches for k in layers]
    first = {k: roof.pays_from(card, config, work.of(1, k), weight_bytes=size) for k in layers}
    if as_json:
        facts = {"card": asdict(card), "model": model, "work": asdict(work)}
        say_json({**facts, "points": list(map(asdict, points)), "pays_from": first})
        return
    say(_about(card, model, work))
    say_table(
        ("batch", "rows", "K", "ms", "reading", "ms with skip", "times faster"),
        [_cells(point) for point in points],
        keys=3,
    )
    for k, smallest in first.items():
        say(_verdict(k, smallest))


def _card(gpu: str) -> tuple[roof.Card, int]:
    """The card, and the bytes of a number on it."""
    if gpu != "here":
        return roof.card(gpu), 2
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return roof.measure(device, dtype), dtype.itemsize


def _point(card: roof.Card, config: ModelConfig, work: roof.Work, size: int) -> Point:
    plain = roof.bound(card, config, work.without_skip(), weight_bytes=size)
    skipped = roof.bound(card, config, work, weight_bytes=size)
    return Point(
        batch=work.batch,
        rows=work.rows,
        ms=plain.seconds * 1e3,
        reading=plain.reading,
        skip_layer_k=work.skip_layer_k,
        ms_with_skip=skipped.seconds * 1e3,
        times_faster=plain.seconds / skipped.seconds,
    )


def _cells(point: Point) -> Sequence[object]:
    return (
        point.batch,
        point.rows,
        point.skip_layer_k,
        f"{point.ms:.3f}",
        f"{point.reading:.0%}",
        f"{point.ms_with_skip:.3f}",
        f"{point.times_faster:.2f}",
    )


def _about(card: roof.Card, model: str, work: roof.Work) -> str:
    return (
        f"{model} on {card.name} ({card.source}: {card.bandwidth / 1e12:.3g} TB/s, "
        f"{card.flops / 1e12:.3g} TFLOP/s), {work.block_length} rows a request, {work.length} "
        f"positions, {work.going:.0%} of the rows go on past K"
    )


def _verdict(k: int, smallest: int | None) -> str:
    if smallest is None:
        return f"K={k}: a skip cannot pay at any batch"
    return f"K={k}: a skip can pay from batch {smallest} on"


def _check(config: ModelConfig, block_length: int, length: int, going: float) -> None:
    if not 1 <= block_length <= length:
        raise ConfigError(
            f"--block-length is {block_length}, must be between 1 and --length ({length})"
        )
    if length > config.max_length:
        raise ConfigError(f"--length is {length}, more than the model's {config.max_length}")
    if not 0.0 <= going <= 1.0:
        raise ConfigError(f"--going is {going}, must be a share between 0 and 1")
