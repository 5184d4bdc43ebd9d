"""Where keys and values lie: ranges of an arena, and how much memory it may take.

Shape letters as in ``skipstone.memory.store``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skipstone import (
    CosineSkip,
    DualCache,
    Engine,
    Fixed,
    NoCache,
    NoSkip,
    PrefixCache,
    Settings,
    Threshold,
)
from skipstone.cache import (
    CachePolicy,
    DllmCache,
    DyllmCache,
    ElasticCache,
    SparseCache,
    VicinityCache,
)
from skipstone.engine.batch import Batch
from skipstone.engine.fit import keeping_of, sessions_bytes
from skipstone.engine.layout import RunnerName
from skipstone.errors import ConfigError, NoRoomError
from skipstone.memory import limit
from skipstone.memory.kept import KeptStates, kept_bytes
from skipstone.memory.limit import MemoryLimit, cells_in
from skipstone.memory.prefixes import Prefix
from skipstone.memory.ranges import GRAIN, Range, Ranges, rounded
from skipstone.memory.store import Admitted, KVStore, cell_bytes
from skipstone.models.load import Model
from skipstone.rows import Rows
from skipstone.skip import RatioSkip, SkipPolicy
from skipstone.skip.cosine import CosineSession
from skipstone.testing.tiny import tiny_model
from tests.helpers.waiting import wait_until

CPU = torch.device("cpu")
SHAPE = SimpleNamespace(num_layers=2, num_kv_heads=1, head_width=4)
BASE = Settings(gen_length=12, block_length=6, eos_stop=False)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def prompts(*lengths: int) -> list[list[int]]:
    return [[(7 * i + 3 * at) % 11 for at in range(n)] for i, n in enumerate(lengths)]


def alone(model: Model, settings: Settings, asked: Sequence[list[int]]) -> list[tuple[int, ...]]:
    return [Engine(model, settings, runner="eager").generate(ids).tokens for ids in asked]


# Ranges.


@settings(deadline=None)
@given(st.integers(0, 40), st.lists(st.tuples(st.integers(0, 9), st.integers(1, 90)), max_size=60))
def test_ranges_never_overlap_never_leak_and_join_when_they_are_free(
    grains: int, moves: list[tuple[int, int]]
) -> None:
    ranges, held = Ranges(grains * GRAIN), dict[int, range]()
    for holder, length in moves:
        if holder in held:
            ranges.release(held.pop(holder).start)
            continue
        gaps = ranges.gaps(length)
        start = ranges.take(gaps[0].start, length).start if gaps else None
        taken = {cell for cells in held.values() for cell in cells}
        free = [all(at + i not in taken for i in range(rounded(length))) for at in range(640)]
        room = [at for at in range(grains * GRAIN - rounded(length) + 1) if free[at]]
        # The first gap that is long enough, whoever made it.
        assert start == (room[0] if room else None)
        if start is not None:
            held[holder] = range(start, start + rounded(length))
        assert ranges.end == max((cells.stop for cells in held.values()), default=0)
    for cells in held.values():
        ranges.release(cells.start)
    assert ranges.end == 0
    assert grains == 0 or ranges.gaps(grains * GRAIN) == [Range(0, grains * GRAIN)]


def test_a_store_grows_up_to_what_it_may_take_and_keeps_what_it_holds() -> None:
    store = KVStore(SHAPE, 16, torch.float32, CPU, most=96)
    assert store.admit(10) == Admitted(0, 0)
    store.keys[:, :10] = 3.0
    assert store.admit(30) == Admitted(16, 0)
    assert store.cells == 48
    assert (store.keys[:, :10] == 3.0).all()
    assert not store.keys[:, 16:].any()
    assert store.admit(50) is None
    assert store.fits(96)
    assert not store.fits(97)
    store.release(16)
    assert store.admit(80) == Admitted(16, 0)
    assert store.cells == 96


def test_a_store_that_graphs_point_into_never_moves() -> None:
    store = KVStore(SHAPE, 64, torch.float32, CPU)
    where = store.keys.data_ptr()
    assert store.admit(64) == Admitted(0, 0)
    assert store.admit(1) is None
    assert store.keys.data_ptr() == where


# How much memory.


@pytest.mark.parametrize(
    ("asked", "count"),
    [("40GB", 40 * 10**9), ("1.5 MiB", 3 << 19), ("7b", 7), (" 2kB ", 2000), ("1tb", 10**12)],
)
def test_bytes_are_read_as_people_write_them(asked: str, count: int) -> None:
    assert MemoryLimit.of(asked).bytes == count


@pytest.mark.parametrize(
    "asked", ["", "GB", "-1GB", "40", "0.5", "1 GB 2", 0, 0.0, 1.1, -0.5, True, float("nan"), [1]]
)
def test_what_is_neither_a_share_nor_bytes_is_refused(model: Model, asked: object) -> None:
    with pytest.raises(ConfigError, match=r"memory is .*, must be a share .* or bytes like '40GB'"):
        Engine(model, memory=asked)  # type: ignore[arg-type]


def test_memory_is_a_share_of_what_is_free_or_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    each = cell_bytes(SHAPE, torch.float32)
    assert each == 2 * 2 * 4 * 4

    def free(device: torch.device) -> int:
        return 1000 * each

    monkeypatch.setattr(limit, "_free", free)
    cuda = torch.device("cuda")

    def cells(memory: object, device: torch.device = cuda, most: int = 10**6) -> int:
        return cells_in(MemoryLimit.of(memory).on(device), each, most)

    assert cells(0.9) == 896
    assert cells(None) == 496
    assert cells(f"{100 * each}b") == 96
    assert cells(1, most=100) == 112
    assert cells(None, CPU, 100) == 112
    with pytest.raises(NoRoomError, match="memory='1TB' is more than there is on cuda: 64 kB"):
        MemoryLimit.of("1TB").on(cuda)


def test_a_prompt_that_never_fits_is_refused_at_once(model: Model) -> None:
    each = cell_bytes(model.config, model.network.dtype)
    engine = Engine(model, BASE, memory=f"{32 * each}b")
    (short, long) = prompts(20, 21)
    assert engine.generate(short).tokens
    said = r"prompt 1 has 33 positions .* keys and values take .*, and there is room for .*memory="
    with pytest.raises(NoRoomError, match=said):
        engine.generate_batch([short, long])
    with pytest.raises(NoRoomError, match="the prompt has 33 positions"):
        engine.submit(long)


# What policies keep beside keys and values.

KEEPING = (DllmCache(2, 4, ratio=0.5), DyllmCache(0.9, warmup=1), ElasticCache(0.9))
COSINE = CosineSkip(skip_layer_k=3, skip_threshold=0.5, skip_outlier=-1.0)
SESSIONS: tuple[tuple[CachePolicy, SkipPolicy], ...] = (
    (SparseCache(), NoSkip()),
    (NoCache(), COSINE),
    (DualCache(), COSINE),
    (VicinityCache(before=2, after=3, warmup=1), COSINE),
    (DualCache(), RatioSkip("0.5@0+0.2@0.25")),
)


def price(model: Model, cache: CachePolicy) -> int:
    """Bytes that a cell takes, with all that is kept of it."""
    config, dtype = model.config, model.network.dtype
    keeping = keeping_of(model.network, BASE.replace(cache=cache))
    return cell_bytes(config, dtype) + kept_bytes(keeping, config, dtype)


def tensors_in(thing: object) -> list[Tensor]:
    """All that an object of ours holds, whatever it is held in."""
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, Mapping):
        return tensors_in([*thing.values()])
    if isinstance(thing, Sequence) and not isinstance(thing, str):
        return [tensor for part in thing for tensor in tensors_in(part)]
    if isinstance(thing, CosineSession):
        # What it tells of the latest step is the step's.
        thing.scores = None
    return tensors_in(vars(thing)) if type(thing).__module__.startswith("skipstone.") else []


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Bytes of the latest store and of all that is kept beside it, once something was decoded."""
    seen, start = list[Batch](), Batch.start

    def noted(*args: Any) -> Batch:
        seen.append(start(*args))
        return seen[-1]

    monkeypatch.setattr(Batch, "start", noted)

    def count() -> int:
        batch = seen[-1]
        store, kept = batch.runner.store, batch._kept
        states = [tensor for each in kept for tensor in each._states.values()]
        sessions = [batch.runner.skip, *(session for _, session in batch.caching._known)]
        return sum(
            tensor.untyped_storage().nbytes()
            for tensor in (store.keys, store.values, *states, *tensors_in(sessions))
        )

    return count


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize(
    ("cache", "skip"), [(c, NoSkip()) for c in (DualCache(), *KEEPING)] + [*SESSIONS], ids=repr
)
def test_what_is_counted_is_what_is_taken(
    cache: CachePolicy, skip: SkipPolicy, heads: int, taken: Callable[[], int]
) -> None:
    model = tiny_model(num_kv_heads=heads)
    settings = BASE.replace(cache=cache, skip=skip, unmask=Fixed())
    sessions = sessions_bytes(model.network, settings, prompts(36))
    given = 48 * price(model, cache) + sessions
    keeps = given > 48 * cell_bytes(model.config, model.network.dtype)
    assert keeps == (cache in KEEPING or (cache, skip) in SESSIONS)
    engine = Engine(model, settings, memory=f"{given}b")
    # All of it by one, then by some of nine at once, as many as there is room for.
    assert engine.generate(prompts(36)[0]).tokens
    # A token that was not computed is not watched by Elastic-Cache in that step.
    least = given - sessions if isinstance(cache, ElasticCache) else given
    assert least <= taken() <= given
    asked = prompts(4, 17, 1, 30, 9, 2, 25, 3, 36)
    found = [result.tokens for result in engine.generate_batch(asked)]
    assert taken() <= given
    assert found == alone(model, engine.settings, asked)
    with pytest.raises(NoRoomError, match=r"has 49 positions .* take .*, and there is room for"):
        engine.generate(prompts(37)[0])
    small = Engine(model, engine.settings, memory=f"{given - 1}b")
    with pytest.raises(NoRoomError, match="keep beside" if keeps else "values take"):
        small.generate(prompts(36)[0])


@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_requests_whose_policies_keep_something_wait_where_there_is_no_room_for_that(
    model: Model, runner: RunnerName, taken: Callable[[], int]
) -> None:
    given = 48 * price(model, DyllmCache())
    engine = Engine(model, BASE, runner=runner, memory=f"{given}b", slots=3)
    # The longest fits only where nothing is kept; all of them are asked for at once.
    most = given // cell_bytes(model.config, model.network.dtype) // GRAIN * GRAIN
    lengths = [4, most - 12, 36, 5, 36, 9, most - 12, 20]
    caches = [DualCache(), DualCache(), KEEPING[1], DualCache(), *KEEPING, NoCache()]
    each = [BASE.replace(cache=cache, unmask=Threshold(0.3)) for cache in caches]
    each[6], each[7] = each[0], each[5]
    asked, found = prompts(*lengths), list[tuple[int, ...]]()
    with pytest.MonkeyPatch.context() as patch:
        states, keep = list[int](), KeptStates.keep

        def counted(self: KeptStates, layer: int, rows: Rows, x_ND: Tensor) -> None:
            keep(self, layer, rows, x_ND)
            states.append(taken())

        patch.setattr(KeptStates, "keep", counted)
        handles = [
            engine.submit(ids, cache=own.cache, unmask=own.unmask)
            for ids, own in zip(asked, each, strict=True)
        ]
        found = [handle.result().tokens for handle in handles]
        together = [result.tokens for result in engine.generate_batch(asked, settings=each)]
    assert max(states) <= given
    wanted = [alone(model, own, [ids])[0] for ids, own in zip(asked, each, strict=True)]
    assert found == together == wanted


# Requests.


@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), DualCache(), DualCache(2)], ids=repr)
@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_requests_wait_for_room_and_give_what_they_give_alone(
    model: Model, cache: NoCache | PrefixCache | DualCache, runner: str
) -> None:
    settings = BASE.replace(cache=cache, unmask=Threshold(0.3))
    asked = prompts(4, 17, 1, 30, 9, 2, 25, 3, 3, 11)
    each = cell_bytes(model.config, model.network.dtype)
    # Two or three of them at once, though there are slots for all.
    engine = Engine(model, settings, runner=runner, memory=f"{80 * each}b")  # type: ignore[arg-type]
    most, admit = [0], KVStore.admit

    def noted(store: KVStore, length: int, prefix: Prefix | None) -> Admitted | None:
        place = admit(store, length, prefix)
        most[0] = max(most[0], store.cells)
        return place

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KVStore, "admit", noted)
        found = [result.tokens for result in engine.generate_batch(asked)]
    assert found == alone(model, settings, asked)
    assert most[0] <= 80


@pytest.mark.parametrize("skip", [None, CosineSkip(3, 0.9)])
def test_what_a_request_leaves_behind_reaches_no_other(
    model: Model, skip: CosineSkip | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BASE if skip is None else BASE.replace(skip=skip)
    asked = prompts(4, 17, 1, 30, 9, 2, 25, 3, 3, 11)
    release = KVStore.release

    def poisoned(store: KVStore, base: int) -> None:
        store.keys[:, base:][:, :GRAIN] = torch.nan
        store.values[:, base:][:, :GRAIN] = torch.nan
        release(store, base)

    monkeypatch.setattr(KVStore, "release", poisoned)
    engine = Engine(model, settings)
    found = [result.tokens for result in engine.generate_batch(asked, batch_size=3)]
    monkeypatch.undo()
    assert found == alone(model, settings, asked)


def test_nothing_is_left_in_the_store_when_all_have_left(model: Model) -> None:
    engine = Engine(model, BASE, runner="graph")
    engine.generate_batch(prompts(4, 17, 1), batch_size=2)
    handle = engine.submit(prompts(9)[0])
    handle.cancel()
    engine.generate(prompts(3)[0])
    kept = engine._arena.kept
    assert kept is not None
    # The last result is there some moments before its slot is free.
    wait_until(lambda: kept.store.unused)


@pytest.mark.parametrize("runner", ["eager", "graph"])
def test_slots_are_fewer_where_sessions_of_policies_would_take_more_than_there_is(
    model: Model, runner: RunnerName, taken: Callable[[], int]
) -> None:
    asked = prompts(36, 4, 17, 1)
    ratio = BASE.replace(skip=RatioSkip("0.5@0"), unmask=Fixed())
    cosine = BASE.replace(skip=COSINE, unmask=Fixed())
    longer = [cosine, cosine.replace(block_length=12), cosine.replace(cache=NoCache())]
    sparse = [BASE, *(BASE.replace(cache=SparseCache(share)) for share in (0.2, 0.5, 0.8))]
    for mixed, slots in product(([ratio], longer, sparse), (1, 3)):
        own = [mixed[i % len(mixed)] for i in range(len(asked))]
        pairs = zip(own, asked, strict=True)
        most = max(sessions_bytes(model.network, one, [ids]) for one, ids in pairs)
        given = slots * (48 * price(model, DualCache()) + most)
        engine = Engine(model, BASE, runner=runner, memory=f"{given}b", slots=64)
        found = [result.tokens for result in engine.generate_batch(asked, settings=own)]
        assert taken() <= given
        handles = [
            engine.submit(
                ids,
                cache=one.cache,
                skip=one.skip,
                unmask=one.unmask,
                block_length=one.block_length,
            )
            for one, ids in zip(own, asked, strict=True)
        ]
        joined = [handle.result().tokens for handle in handles]
        assert taken() <= given
        assert found == [alone(model, one, [ids])[0] for one, ids in zip(own, asked, strict=True)]
        assert joined == found
