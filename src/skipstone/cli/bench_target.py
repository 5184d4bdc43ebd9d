"""What ``skipstone bench`` measures: a model and the cells, chosen by device where nobody chose."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch

from skipstone.bench.plan import Plan, StepShape, parse_generation
from skipstone.bench.random_model import random_model
from skipstone.bench.timing import Rig, release
from skipstone.checks import number
from skipstone.cli.options import RunSpec, parse_numbers
from skipstone.engine import Settings
from skipstone.engine import roofline as roof
from skipstone.errors import ConfigError
from skipstone.models import locate
from skipstone.models.config import read_config
from skipstone.models.load import Model, dtype_named
from skipstone.models.shapes import SHAPES
from skipstone.quoting import shown

_MOST = 1 << 16


@dataclass(frozen=True)
class Defaults:
    """Cells for those who name none."""

    model: str
    dtype: str
    batch: str
    context: str
    generation: str
    refresh: str


_GPU = Defaults(
    model="llada-8b",
    dtype="bfloat16",
    batch="1,8,32",
    context="512",
    generation="19+128/32,1024+256/64,1000+256/256x8@64",
    refresh="1280",
)
_CPU = Defaults(
    model="pebble",
    dtype="float32",
    batch="1,2",
    context="64",
    generation="19+128/32",
    refresh="256",
)


@dataclass(frozen=True, eq=False)
class BenchTarget:
    """The model to measure, by name, and the embedded one on the same device for the gate."""

    name: str
    dtype: str
    pebble: Model
    defaults: Defaults

    @classmethod
    def of(cls, name: str | None, device: str, dtype: str) -> BenchTarget:
        """Choose by device what was not chosen.

        Raises:
            ConfigError: the device or dtype does not exist here.
        """
        pebble = RunSpec("pebble", device, "float32", Settings()).load()
        defaults = _GPU if pebble.network.device.type == "cuda" else _CPU
        found = dtype_named(defaults.dtype if dtype == "auto" else dtype)
        dtype = str(found).removeprefix("torch.")
        return cls(name or defaults.model, dtype, pebble, defaults)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself."""
        return dtype_named(self.dtype)

    def plan(self, sections: tuple[str, ...], texts: dict[str, str | None]) -> Plan:
        """The cells, checked against the model's shape before its weights are read."""
        config = SHAPES.get(self.name) or read_config(locate.find(self.name))
        given = {name: text for name, text in texts.items() if text is not None}
        plan = _plan(sections, {**asdict(self.defaults), **given})
        plan.check(config)
        return plan

    def rig(self, repeats: int) -> Rig:
        """Load or make the model, and measure the device in its dtype."""
        device, dtype = self.pebble.network.device, self.torch_dtype
        if self.name in SHAPES:
            model = random_model(self.name, SHAPES[self.name], device, dtype)
        else:
            model = RunSpec(self.name, str(device), self.dtype, Settings()).load()
        card = roof.measure(device, dtype)
        release()
        return Rig(model, card, repeats)


def _plan(sections: tuple[str, ...], texts: dict[str, str]) -> Plan:
    """Parse the cells."""
    batches = parse_numbers("--batch", texts["batch"], 1, _MOST)
    contexts = parse_numbers("--context", texts["context"], 1, _MOST)
    rows = parse_numbers("--rows", texts["rows"], 1, _MOST)
    shapes = [StepShape(*numbers) for numbers in itertools.product(batches, contexts, rows)]
    return Plan(
        sections=sections,
        steps=tuple(shapes),
        generations=tuple(map(parse_generation, texts["generation"].split(","))),
        refreshes=tuple(parse_numbers("--refresh", texts["refresh"], 64, _MOST)),
        layers=tuple(parse_numbers("--skip-layer-k", texts["skip_layer_k"], 2, _MOST)),
        going=tuple(_shares(texts["going"])),
    )


def _shares(text: str) -> Iterator[float]:
    """Parse ``0.25,0.5``."""
    for part in text.split(","):
        try:
            share = number(part)
        except ValueError:
            share = math.nan
        if not 0.0 < share <= 1.0:
            raise ConfigError(
                f"--going has {shown(part)}, must be a share above 0 and at most 1, like 0.25"
            )
        yield share
