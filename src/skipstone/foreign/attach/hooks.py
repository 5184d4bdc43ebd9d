"""Hooks on a foreign model and on its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

from torch import Tensor, nn

from skipstone.foreign.shared.compiled import unseen


class Listener(Protocol):
    """Hears of every call, and of every layer within it."""

    def before(
        self, module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        """A call of the model begins."""
        ...

    def after(self, module: nn.Module, args: object, output: object) -> None:
        """A call of the model is done."""
        ...

    def enter_layer(self, number: int, x: Tensor) -> None:
        """States that go into a layer, counted from 1."""
        ...

    def leave_layer(self, number: int, output: object) -> None:
        """What comes out of a layer."""
        ...


def hook(on: ExitStack, model: nn.Module, layers: Sequence[nn.Module], listener: Listener) -> None:
    """Put the hooks on; they come off when ``on`` is closed."""
    handles = [
        model.register_forward_pre_hook(unseen(listener.before), with_kwargs=True),
        model.register_forward_hook(unseen(listener.after)),
    ]
    for handle in handles:
        on.callback(handle.remove)
    for number, layer in enumerate(layers, start=1):
        _hook_layer(on, layer, number, listener)


def _hook_layer(on: ExitStack, layer: nn.Module, number: int, listener: Listener) -> None:
    def before(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        states = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        if states is not None:
            listener.enter_layer(number, states)

    def after(module: nn.Module, args: object, output: object) -> None:
        listener.leave_layer(number, output)

    on.callback(layer.register_forward_pre_hook(unseen(before), with_kwargs=True).remove)
    on.callback(layer.register_forward_hook(unseen(after)).remove)
