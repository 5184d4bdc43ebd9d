"""Code of the user that torch.compile has compiled: it stays as it was compiled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.overrides import TorchFunctionMode

from skipstone.foreign.shared.compiled import active


class _Seeing(TorchFunctionMode):
    """Counts torch functions."""

    count = 0

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        self.count += 1
        return func(*args, **(kwargs or {}))


@torch.compile(backend="eager")
def _compiled(x: Tensor) -> Tensor:
    return (x * 2 + 1).sin()


@torch.compile(backend="eager")
def _failing(x: Tensor) -> Tensor:
    raise ValueError("the user's own mistake")


def _graphs() -> int:
    return counters["stats"]["unique_graphs"]


def test_nothing_is_compiled_again_for_a_mode() -> None:
    x = torch.randn(4)
    _compiled(x)
    before, mode = _graphs(), _Seeing()
    with active(mode):
        _compiled(x)
        assert mode.count == 0
        x.add(1)
        assert mode.count == 1
    assert _graphs() == before


def test_two_modes_stay_out_together() -> None:
    x, outer, inner = torch.randn(4), _Seeing(), _Seeing()
    _compiled(x)
    before = _graphs()
    with active(outer), active(inner):
        _compiled(x)
        _compiled(x)
        assert (outer.count, inner.count) == (0, 0)
        x.add(1)
        assert (outer.count, inner.count) == (1, 1)
    assert _graphs() == before
    assert torch._C._len_torch_function_stack() == 0


def test_control_a_bare_mode_is_compiled_into_the_users_code() -> None:
    x = torch.randn(4)
    _compiled(x)
    before = _graphs()
    with _Seeing():
        _compiled(x)
    assert _graphs() > before


def test_a_mode_is_back_after_a_compiled_function_fails() -> None:
    mode = _Seeing()
    with active(mode):
        with pytest.raises(ValueError, match="own mistake"):
            _failing(torch.randn(4))
        torch.randn(4).add(1)
    assert mode.count > 0
    assert torch._C._len_torch_function_stack() == 0
