"""What the skip costs and saves: floating-point work, host reads, its cosine's arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from skipstone import CosineSkip, DualCache, Engine, Model, NoCache, NoSkip, PrefixCache
from skipstone.blocks import Block
from skipstone.cache import CachePolicy
from skipstone.canvas import Canvas, Geometry
from skipstone.engine import Result, Settings
from skipstone.engine.observe import StepView, Taps
from skipstone.ops.decide import reference as ops
from skipstone.skip import SkipPolicy
from tests.conftest import context_at
from tests.helpers.watching import places, prompt_of, uneven_model

CACHES: list[CachePolicy] = [NoCache(), PrefixCache(), DualCache()]
MEAN_SKIP = CosineSkip(skip_layer_k=3, skip_threshold=0.7, skip_outlier=0.0)


@dataclass
class Work:
    """Counts scored rows and how far each row went, from what an observer is shown."""

    taps: Taps = field(default_factory=Taps)
    scored: int = 0
    attended: int = 0
    """Pairs of a row and a key, over all layers."""
    row_layers: int = 0

    def on_start(self, model: Model, settings: Settings, prompts: Sequence[Sequence[int]]) -> None:
        self.num_layers = model.config.num_layers
        self.length = len(prompts[0]) + settings.gen_length

    def on_step(self, view: StepView) -> None:
        entered, finished = len(places(view.rows)), len(places(view.finished))
        shallow = self.num_layers if view.skip is None else MEAN_SKIP.skip_layer_k - 1
        self.row_layers += entered * shallow + finished * (self.num_layers - shallow)
        self.scored += view.scored.num_rows if view.scored is not None else 0

    def on_end(self, results: Sequence[Result]) -> None:
        pass


def count_flops(engine: Engine, prompt: list[int]) -> tuple[int, Result]:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        result = engine.generate(prompt)
    return counter.get_total_flops(), result


def flops_of_a_row_layer(model: Model, length: int) -> int:
    """Two for each weight that a row meets, and four for each key's coordinate."""
    config = model.config
    kv = config.num_kv_heads * config.head_width
    projections = config.width * (2 * config.width + 2 * kv)
    mlp = 3 * config.width * config.mlp_width
    return 2 * (projections + mlp) + 4 * config.width * length


@pytest.mark.parametrize("cache", CACHES, ids=["none", "prefix", "dual"])
@pytest.mark.parametrize("skip", [NoSkip(), MEAN_SKIP], ids=["plain", "skip"])
def test_a_skipped_row_costs_nothing_in_the_deep_layers(
    cache: CachePolicy, skip: SkipPolicy
) -> None:
    model, prompt = uneven_model(4, num_layers=6), prompt_of(4, 9)
    engine = Engine(model, cache=cache, skip=skip, gen_length=16, block_length=8, eos_stop=False)
    work = Work()
    engine.generate(prompt, observer=work)
    flops, result = count_flops(engine, prompt)

    steps = result.stats.steps
    computed = sum(s.rows * model.config.num_layers - s.skipped_row_layers for s in steps)
    assert computed == work.row_layers
    head = 2 * model.config.width * model.config.vocab_size * work.scored
    assert flops == computed * flops_of_a_row_layer(model, len(prompt) + 16) + head

    skipped = sum(s.skipped_row_layers for s in steps)
    assert (skipped > 0) == (skip is MEAN_SKIP)
    assert skipped % (model.config.num_layers - MEAN_SKIP.skip_layer_k + 1) == 0


def test_only_masks_of_the_block_get_logits() -> None:
    model, prompt = uneven_model(4), prompt_of(4, 9)
    engine = Engine(model, cache=NoCache(), gen_length=16, block_length=8, eos_stop=False)
    work = Work()
    result = engine.generate(prompt, observer=work)
    masks = 0
    for block in range(2):
        left = 8
        for step in [s for s in result.stats.steps if s.block == block]:
            masks += left
            left -= step.committed
    assert work.scored == masks
    assert masks < sum(step.rows for step in result.stats.steps) // 3


READS = ("cpu", "item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__")
# On an accelerator these wait for values to know a shape, as a read does.
HIDDEN_READS = {"aten::nonzero", "aten::masked_select", "aten::_local_scalar_dense", "aten::unique"}


class Dispatched(TorchDispatchMode):
    """Counts operations, and those that would make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.waits = Counter[str]()

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        name = func._schema.name
        self.operations += 1
        if name in HIDDEN_READS:
            self.waits[name] += 1
        if name in ("aten::index", "aten::index_put", "aten::index_put_"):
            indices = args[1]
            assert isinstance(indices, (list, tuple))
            if any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices):
                self.waits["boolean indexing"] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_reads(monkeypatch: pytest.MonkeyPatch) -> Generator[Counter[str], None, None]:
    """Counts reads of tensor values by the host; a read inside another one counts once."""
    reads = Counter[str]()
    inside = [False]

    def counting(name: str) -> object:
        original = getattr(Tensor, name)

        def read(self: Tensor, *args: object, **kwargs: object) -> object:
            if inside[0]:
                return original(self, *args, **kwargs)
            inside[0] = True
            try:
                # What .cpu() gave is on the host already; reading that again is free.
                if not getattr(self, "on_host", False):
                    reads[name] += 1
                found = original(self, *args, **kwargs)
                if name == "cpu":
                    found = found.clone()
                    found.on_host = True
                return found
            finally:
                inside[0] = False

        return read

    with monkeypatch.context() as patch:
        for name in READS:
            patch.setattr(Tensor, name, counting(name))
        with Dispatched() as dispatched:
            yield reads
        reads.update(dispatched.waits)


def reads_of_a_run(monkeypatch: pytest.MonkeyPatch, skip: SkipPolicy) -> tuple[Counter[str], int]:
    engine = Engine(uneven_model(4), skip=skip, gen_length=16, block_length=8, eos_stop=False)
    prompt = prompt_of(4, 9)
    with counted_reads(monkeypatch) as reads:
        result = engine.generate(prompt)
    assert (result.stats.skip_share > 0) == (skip is MEAN_SKIP)
    return reads, result.stats.num_forwards


def test_a_step_without_skip_reads_the_canvas_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, forwards = reads_of_a_run(monkeypatch, NoSkip())
    assert reads == Counter(numpy=forwards)


def test_packing_costs_at_most_one_read_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, forwards = reads_of_a_run(monkeypatch, MEAN_SKIP)
    judged = forwards - 2  # each block's first step
    assert reads.total() <= forwards + 1 + judged, reads


def test_the_counter_sees_reads_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(4)
    with counted_reads(monkeypatch) as reads:
        x.cpu().numpy()
        x[0].item()
        bool(x[0] == 0)
        x[x > 1]
        x.nonzero()
        x.tolist()
    assert reads["cpu"] == reads["item"] == reads["__bool__"] == reads["tolist"] == 1
    assert "numpy" not in reads
    assert reads["boolean indexing"] == 1
    assert reads["aten::nonzero"] >= 1


def judge(
    rows_to_judge: int, layer_k: int, threshold: float = 0.5, outlier: float = 0.0
) -> tuple[Counter[str], int, Tensor]:
    """Reads, operations and answer for states that have not changed in ``layer_k - 1`` layers."""
    canvas = Canvas.start([[1, 2, 3]], rows_to_judge, 0, torch.device("cpu"))
    geometry = Geometry(
        batch=1,
        length=canvas.ids_BL.shape[1],
        gen_length=rows_to_judge,
        num_layers=layer_k,
        width=16,
        dtype=torch.float32,
        device=canvas.device,
    )
    session = CosineSkip(layer_k, threshold, outlier).start(geometry)
    context = context_at(canvas, Block(0, 0, rows_to_judge), 1, rows_to_judge)
    rows = context.block_rows()
    session.expect(rows)
    # Powers of two, so that the cosine of equal states is 1 and not next to it.
    x_ND = 2.0 ** torch.randint(0, 2, (rows.num_rows, 1)).expand(-1, 16)
    for layer in range(1, layer_k):
        session.learn(layer, x_ND, rows, context)
    with (
        pytest.MonkeyPatch.context() as patch,
        counted_reads(patch) as reads,
        Dispatched() as dispatched,
    ):
        answers = [session.keep(layer, x_ND, rows, context) for layer in range(1, layer_k)]
    keep_N = answers.pop()
    assert keep_N is not None
    assert answers == [None] * (layer_k - 2)
    return reads, dispatched.operations, keep_N


def test_the_similarity_reads_nothing_and_needs_few_operations() -> None:
    small, large = judge(3, 3), judge(40, 12)
    assert small[0].total() == large[0].total() == 0
    assert not small[2].any()
    assert not large[2].any()
    # As many for 40 rows and 11 layers as for 3 rows and 2 layers.
    assert small[1] == large[1] < 80


def test_equal_states_skip_below_threshold_1_and_reach_outlier_1() -> None:
    # The mean must be above the threshold, the smallest cosine may be at the outlier bound.
    assert judge(5, 4, threshold=1.0, outlier=1.0)[2].all()
    assert not judge(5, 4, threshold=0.999999, outlier=1.0)[2].any()


def test_bfloat16_similarity_has_the_grid_of_the_notebook() -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(400, 4096, generator=generator, dtype=torch.float64)
    noise = torch.randn(400, 4096, generator=generator, dtype=torch.float64)
    for true in (0.99999, 0.995):
        now = true * before + (1 - true**2) ** 0.5 * noise
        args = (now.bfloat16()[None], before.bfloat16()[None])
        coarse = ops.cosine(*args, torch.bfloat16)
        below = coarse[coarse < 1]
        assert torch.equal(below * 256, (below * 256).round())
        assert set(coarse.unique().tolist()) <= {0.98828125, 0.9921875, 0.99609375, 1.0}
        fine = ops.cosine(*args, torch.float32)
        assert fine.unique().numel() > 30 > coarse.unique().numel()
        assert (fine - true).abs().max() < 2e-3


def test_float32_similarity_is_close_to_float64_on_wide_states() -> None:
    generator = torch.Generator().manual_seed(1)
    for width in (63, 1000, 4096, 8192):
        before = torch.randn(2, 300, width, generator=generator)
        for change in (1e-4, 1e-2, 0.3):
            now = before + change * torch.randn(before.shape, generator=generator)
            narrow = ops.cosine(now, before, torch.float32)
            wide = ops.cosine(now, before, torch.float64)
            assert narrow.dtype == wide.dtype == torch.float64
            # A few units in the last place of 1; a threshold of 0.9999 is 1e-4 away from it.
            assert (narrow - wide).abs().max() < 6e-7
            assert (narrow - wide).abs().mean() < 2e-7
            assert narrow.max() <= 1.0
    coarse = ops.cosine(now, before, torch.bfloat16)
    assert (coarse - wide).abs().max() > 1e-4
