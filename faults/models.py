"""The embedded model, and copies of it in which what is rare happens often."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import skipstone
from skipstone.models.load import Model
from skipstone.models.parts.decoder import Decoder
from skipstone.models.table import ARCHITECTURES
from skipstone.testing import write_checkpoint


@cache
def model(name: str) -> Model:
    """One of the models of the bench, loaded once in a process.

    Names: ``pebble``; ``bfloat16``; ``sharp``, so confident that many confidences round to 1;
    ``twins``, in which every two tokens are almost the same; ``layer 5``, with other weights in one
    layer; ``eight bits``, whose weights lie on the grid of int8; ``short``, the first six layers
    alone, which is quick. Any architecture: a tiny one with random weights.
    """
    if name in ARCHITECTURES:
        with TemporaryDirectory() as folder:
            return skipstone.load(write_checkpoint(Path(folder), architecture=name), device="cpu")
    made = skipstone.load("pebble", dtype="bfloat16" if name == "bfloat16" else "float32")
    with torch.no_grad():
        if name != "pebble" and name != "bfloat16":
            _CHANGES[name](made)
    return made


def _sharp(made: Model) -> None:
    made.network.published()["model.transformer.ln_f.weight"].mul_(8)


def _twins(made: Model) -> None:
    head_VD = made.network.published()["model.transformer.ff_out.weight"]
    generator = torch.Generator().manual_seed(1)
    even_VD = head_VD[::2]
    noise_VD = torch.randint(-2, 3, even_VD.shape, generator=generator)
    head_VD[1::2] = even_VD * (1 + torch.finfo(head_VD.dtype).eps * noise_VD)


def _layer_5(made: Model) -> None:
    weight = made.network.published()["model.transformer.blocks.4.ff_out.weight"]
    weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))


def _eight_bits(made: Model) -> None:
    for name, weight in made.network.published().items():
        if "blocks" in name and weight.ndim == 2:
            scale = weight.abs().amax(1, keepdim=True) / 127
            weight.copy_((weight / scale).round() * scale)


def _short(made: Model) -> None:
    network = made.network
    assert isinstance(network, Decoder)
    network.layers = network.layers[:6]
    network.config = replace(network.config, num_layers=6)


_CHANGES = {
    "short": _short,
    "sharp": _sharp,
    "twins": _twins,
    "layer 5": _layer_5,
    "eight bits": _eight_bits,
}
