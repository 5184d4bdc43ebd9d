"""Each kernel against its twin at odd sizes: run by ``test_kernels`` with TRITON_INTERPRET=1.

On a machine with a GPU: ``python -m pytest tests/ops/twins.py`` runs the compiled kernels.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from skipstone import Engine, Fixed, Settings
from skipstone.memory.store import KVStore
from skipstone.models.base import ModelConfig
from skipstone.models.llada import LLADA
from skipstone.models.parts.decoder import Decoder
from skipstone.ops import backend
from skipstone.ops.decide import dispatch as decide
from skipstone.ops.decide import reference as decided
from skipstone.ops.model import dispatch, reference
from skipstone.rows import Rows
from skipstone.testing.tiny import tiny_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16]
EPS = 1e-5


def close(found: torch.Tensor, twin: torch.Tensor, roundings: int = 2) -> None:
    # The twin may round once more than the kernel where it makes a tensor in between.
    step = roundings * torch.finfo(twin.dtype).eps
    torch.testing.assert_close(found, twin, rtol=step, atol=step)


def assert_equal(found: torch.Tensor, twin: torch.Tensor) -> None:
    assert torch.equal(found, twin)


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 32), (3, 100), (33, 257), (7, 4096)])
def test_norms(rows: int, width: int, dtype: torch.dtype) -> None:
    x, delta = drawn(rows, width, dtype=dtype), drawn(rows, width, dtype=dtype, seed=1)
    weight = drawn(width, dtype=dtype, seed=2)
    with backend.served_by("triton"):
        normed = dispatch.rms_norm(x, weight, EPS)
        total, both = dispatch.add_rms_norm(x, delta, weight, EPS)
    close(normed, reference.rms_norm(x, weight, EPS))
    twin_total, twin = reference.add_rms_norm(x, delta, weight, EPS)
    # The interpreter cuts bfloat16 off where a GPU rounds it.
    close(total, twin_total) if DEVICE == "cpu" else assert_equal(total, twin_total)
    close(both, twin)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (3, 50), (5, 2049)])
def test_swiglu(rows: int, width: int, dtype: torch.dtype) -> None:
    gate_up = drawn(rows, 2 * width, dtype=dtype)
    with backend.served_by("triton"):
        found = dispatch.swiglu(gate_up)
    close(found, reference.swiglu(gate_up))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("writes", [None, (True, False, True, True, False), (False,) * 5])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(1, 1, 8), (6, 3, 24), (17, 1, 128)])
def test_rotation_and_write(
    heads: int, kv_heads: int, width: int, writes: tuple[bool, ...] | None, dtype: torch.dtype
) -> None:
    spans = [(0, 2, 5), (2, 0, 1), (3, 6, 7)]
    rows = Rows.spans(spans, torch.device(DEVICE), bases=[7, 0, 14])
    if writes is not None:
        rows = replace(rows, writes_N=torch.tensor(writes, device=DEVICE))
    # A slice of a wider tensor, and stores that are neither dense nor alike.
    qkv = drawn(rows.num_rows, heads + 2 * kv_heads + 1, width, dtype=dtype)[:, :-1]
    angles = reference.rotary_tables(9, width, 10000.0, rows.device)[:, rows.position_N]
    shape = (28, kv_heads, width)
    keys = [torch.full((5, *shape), 7.0, dtype=dtype, device=DEVICE) for _ in "ab"]
    values = [torch.full((kv_heads, 28, width), 7.0, dtype=dtype, device=DEVICE) for _ in "ab"]
    with backend.served_by("triton"):
        q = dispatch.rotate_and_write(qkv, angles, keys[0][2], values[0].transpose(0, 1), rows)
    twin = reference.rotate_and_write(qkv, angles, keys[1][2], values[1].transpose(0, 1), rows)
    assert q.is_contiguous()
    close(q, twin)
    close(keys[0], keys[1])
    assert_equal(*values)
    written = (values[0] != 7).any(-1).any(0).sum()
    assert written == (5 if writes is None else sum(writes))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "rotated"), [(3, 1, 24, 6), (6, 3, 24, 24), (17, 2, 128, 64)]
)
def test_rotation_with_norms_of_a_part_and_rounded(
    heads: int,
    kv_heads: int,
    width: int,
    rotated: int,
    rounds: bool,
    normed: bool,
    dtype: torch.dtype,
) -> None:
    rows = Rows.spans([(0, 2, 5), (2, 0, 1), (3, 6, 7)], torch.device(DEVICE), bases=[7, 0, 14])
    rows = replace(rows, writes_N=torch.tensor([True, False, True, True, True], device=DEVICE))
    qkv = 3 * drawn(rows.num_rows, heads + 2 * kv_heads + 1, width, dtype=dtype)[:, :-1]
    table = reference.rotary_tables(9, rotated, 10000.0, rows.device)
    angles = (table.to(dtype) if rounds else table)[:, rows.position_N]
    query, key = (drawn(width, dtype=dtype, seed=seed) for seed in (1, 2))
    norms = reference.HeadNorms(query, key, EPS) if normed else None
    stores = torch.full((2, 2, 28, kv_heads, width), 7.0, dtype=dtype, device=DEVICE)
    with backend.served_by("triton"):
        q = dispatch.rotate_and_write(qkv, angles, stores[0, 0], stores[0, 1], rows, norms)
    twin = reference.rotate_and_write(qkv, angles, stores[1, 0], stores[1, 1], rows, norms)
    # Interpreted, each of them cuts off where a GPU rounds: norm, weight, two products, their sum.
    close(q, twin, roundings=5)
    close(stores[0, 0], stores[1, 0], roundings=5)
    assert_equal(stores[0, 1], stores[1, 1])
    assert (stores[0, 1] != 7).any(-1).any(-1).sum() == 4
    # What is not rotated is not changed, and the values never are.
    if not normed:
        assert_equal(q[..., rotated:], qkv[:, :heads, rotated:])
    assert_equal(stores[0, 1][rows.cell_N[2:]], qkv[2:, heads + kv_heads :])


def test_padding_may_stand_where_a_row_writes() -> None:
    rows = Rows.spans([(0, 0, 2)], torch.device(DEVICE))
    rows = replace(rows, writes_N=torch.tensor([False, True], device=DEVICE)).own()
    rows.position_N.fill_(1)
    for mode in ("reference", "triton"):
        store, new = torch.zeros(2, 2, 1, 16, device=DEVICE), drawn(2, 3, 16, dtype=DTYPES[0])
        angles = reference.rotary_tables(2, 16, 10000.0, rows.device)
        with backend.served_by(mode):
            dispatch.rotate_and_write(new, angles, store[0], store[1], rows)
        assert_equal(store[1, 1], new[1, 2:])
        assert not store[:, 0].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize(("rows", "vocab"), [(1, 5), (3, 1000), (5, 20011)])
def test_score(rows: int, vocab: int, dtype: torch.dtype, entropy: bool) -> None:
    logits = 4 * drawn(rows, vocab, dtype=dtype)
    mask_id = int(logits[0].argmax())
    with backend.served_by("triton"):
        found = decide.score(logits, mask_id, None, entropy=entropy)
    twin = decided.score(logits, mask_id, None, entropy=entropy)
    assert (found.entropy_N is not None) == (twin.entropy_N is not None) == entropy
    if found.entropy_N is not None and twin.entropy_N is not None:
        torch.testing.assert_close(found.entropy_N, twin.entropy_N, rtol=1e-5, atol=1e-6)
    assert_equal(found.token_N, twin.token_N)
    torch.testing.assert_close(found.confidence_N, twin.confidence_N, rtol=1e-5, atol=1e-12)
    best = found.runner_up_confidence_N
    torch.testing.assert_close(best, twin.runner_up_confidence_N, rtol=1e-5, atol=1e-12)
    # Which of several equal runners-up is named is open; that it is one of the best is not.
    assert_equal(
        logits.gather(1, found.runner_up_N[:, None]), logits.gather(1, twin.runner_up_N[:, None])
    )


def test_the_lowest_id_of_equals_is_chosen_and_the_next_is_the_runner_up() -> None:
    logits = torch.zeros(2, 20000, device=DEVICE)
    logits[0, [4, 9000, 19999]] = 3.0
    with backend.served_by("triton"):
        found = decide.score(logits, 0, None)
    assert found.token_N.tolist() == [4, 1]
    assert found.runner_up_N.tolist() == [9000, 2]
    assert_equal(found.confidence_N, found.runner_up_confidence_N)


def test_the_entropy_is_that_of_the_whole_distribution() -> None:
    # One token alone, eight alike, and a piece of the vocabulary in which nothing is possible.
    logits = torch.full((3, 20000), float("-inf"), device=DEVICE)
    logits[0, 7] = logits[1, 100:108] = 2.0
    logits[2, [5, 19000]] = torch.tensor([0.0, 1.0], device=DEVICE)
    # The mask has a share, too, in the last row the largest.
    logits[2, 3] = 1.5
    p = torch.tensor([0.0, 1.0, 1.5], dtype=torch.float64).softmax(0)
    truth = torch.stack([torch.zeros(()), torch.tensor(8.0).log(), torch.special.entr(p).sum()])
    for mode in ("triton", "reference"):
        with backend.served_by(mode):
            found = decide.score(logits, 3, None, entropy=True)
        assert found.entropy_N is not None
        torch.testing.assert_close(found.entropy_N.cpu(), truth.double(), rtol=1e-5, atol=1e-6)
        assert found.token_N.tolist() == [7, 100, 19000]
        assert found.confidence_N[2].item() == pytest.approx(p[1].item(), rel=1e-6)


def test_a_mask_that_is_all_but_certain_leaves_the_others_in_order() -> None:
    logits = torch.zeros(1, 9000, device=DEVICE)
    logits[0, [4, 7, 8500]] = torch.tensor([50.0, 2.0, 3.0], device=DEVICE)
    for mode in ("triton", "reference"):
        with backend.served_by(mode):
            found = decide.score(logits, 4, None, entropy=True)
        assert [found.token_N.item(), found.runner_up_N.item()] == [8500, 7]
        assert 0 < found.runner_up_confidence_N.item() < found.confidence_N.item() < 1e-19
        assert found.entropy_N is not None
        assert 0 <= found.entropy_N.item() < 1e-15


# NumPy, which the interpreter uses, warns where a GPU computes a NaN.
@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_broken_logits_show_in_the_confidence(broken: float) -> None:
    logits = drawn(3, 9000, dtype=torch.float32)
    logits[1, 8500] = broken
    with backend.served_by("triton"):
        found = decide.score(logits, 0, None, entropy=True)
    assert found.confidence_N.isnan().tolist() == [False, True, False]
    assert found.entropy_N is not None
    assert found.entropy_N.isnan().tolist() == [False, True, False]
    assert found.token_N[1] == 8500
    assert_equal(found.token_N, decided.score(logits, 0, None).token_N)


@pytest.mark.skipif(
    DEVICE != "cpu", reason="tests/engine/test_cuda.py runs the kernels in whole runs"
)
def test_a_run_with_kernels_gives_the_tokens_of_the_reference() -> None:
    # Two heads of width 16: attention has no kernel for narrower ones.
    model = tiny_model(1, num_heads=2, num_kv_heads=2, dtype=torch.float32)
    engine = Engine(model, Settings(gen_length=8, block_length=4, unmask=Fixed()))
    plain = engine.generate([5, 6, 7])
    with backend.served_by("triton"):
        assert engine.generate([5, 6, 7]).tokens == plain.tokens


def test_what_no_kernel_computes_stays_with_the_reference() -> None:
    with backend.served_by("triton"):
        assert backend.refusal(torch.zeros(1, dtype=torch.float64)).startswith("no kernel")
        assert backend.refusal(torch.zeros(1, dtype=torch.bfloat16)) == ""
    with backend.served_by("reference"):
        assert backend.refusal(torch.zeros(1)) == "kernels are switched off"
    if DEVICE == "cpu":
        assert backend.refusal(torch.zeros(1)) == "kernels need a CUDA device"


def wide_network() -> Decoder:
    """Wide enough for programs of a product to ask for their first tiles before they wait."""
    config = ModelConfig(
        architecture=LLADA.name,
        width=2048,
        num_layers=4,
        num_heads=16,
        num_kv_heads=16,
        head_width=128,
        mlp_width=4096,
        vocab_size=1024,
        max_length=512,
        rope_theta=10000.0,
        norm_eps=EPS,
        tied_head=False,
        mask_id=1,
        eos_id=2,
    )
    network = Decoder(config, LLADA.names, torch.bfloat16, torch.device(DEVICE))
    torch.manual_seed(0)
    for weight in network.published().values():
        weight.data.normal_(std=0.02) if weight.ndim > 1 else weight.data.fill_(1.0)
    return network


def stepped(network: Decoder, ids: torch.Tensor, rows: Rows, store: KVStore) -> torch.Tensor:
    """Logits of one step."""
    x, angles = network.embed(ids), network.angles(rows)
    for index in range(network.config.num_layers):
        x = network.layer(index, x, angles, rows, store)
    return network.head(network.final_norm(x))


@pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU here")
# With 64 rows or fewer, products are kernels of ours; with more, the library's stand between.
@pytest.mark.parametrize("num_rows", [32, 80])
def test_kernels_that_start_early_compute_the_same(num_rows: int) -> None:
    from skipstone.ops.triton_early import served_early

    device, dtype = torch.device(DEVICE), torch.bfloat16
    network = wide_network()
    rows = Rows.spans([(0, 200, 200 + num_rows)], device, lengths=[512])
    rows = replace(rows, writes_N=torch.ones(num_rows, dtype=torch.bool, device=device)).own()
    ids = torch.zeros(num_rows, dtype=torch.int64, device=device)
    found = list[list[torch.Tensor]]()
    for allowed in (False, True):
        store = KVStore(network.config, 512, dtype, device)
        work = partial(stepped, network, ids, rows, store)
        with served_early(allowed):
            eager = [work()]
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                logits = work()
        outs = list[torch.Tensor]()
        for seed in range(20):
            ids.copy_(torch.arange(seed, seed + num_rows) * 7 % 1024)
            graph.replay()
            outs.append(logits.clone())
        found.append([*eager, *outs, store.keys, store.values])
        ids.zero_()
    for late, early in zip(*found, strict=True):
        assert early.isfinite().all()
        assert_equal(early, late)
