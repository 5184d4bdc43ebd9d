"""What is fetched in the background is what there is, and is waited for once."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import skipstone.ops
from skipstone.ops import prefetch

ROOT = Path(skipstone.ops.__file__).parent


def test_every_module_of_kernels_is_fetched() -> None:
    package = {
        f"skipstone.ops.{part}.{path.stem}"
        for part in ("model", "decide")
        for path in (ROOT / part).glob("triton_*.py")
    }
    assert set(prefetch.KERNELS) == package
    assert all(find_spec(name) for name in prefetch.KERNELS)


def nothing_but(kind: str, fetched: list[str]) -> Callable[..., None]:
    def fetch(*_: object) -> None:
        fetched.append(kind)

    return fetch


def test_whoever_needs_it_waits_until_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = list[str]()
    monkeypatch.setattr(prefetch, "_fetch_triton", nothing_but("triton", fetched))
    monkeypatch.setattr(prefetch, "_fetch_cublas", nothing_but("cublas", fetched))
    monkeypatch.setattr(prefetch, "find_spec", bool)
    prefetch.fetch(torch.device("cpu"))
    prefetch.wait()
    assert not fetched
    prefetch.fetch(torch.device("cuda"))
    prefetch.wait()
    assert sorted(fetched) == ["cublas", "triton"]
