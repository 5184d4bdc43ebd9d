"""Where a foreign model keeps its layers, and hooks on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

import torch
from torch import Tensor, nn

from skipstone.errors import ConfigError, nearest
from skipstone.foreign.shared.compiled import unseen
from skipstone.quoting import shown

# Names under which well-known families keep their blocks: LLaDA, Dream and most others, GPT.
_USUAL = (
    "model.transformer.blocks",
    "transformer.blocks",
    "model.layers",
    "model.model.layers",
    "layers",
    "transformer.h",
)
# Names under which wrappers keep what they wrap: DataParallel, torch.compile, adapters.
_WRAPPERS = ("module", "_orig_mod", "base_model.model", "base_model", "model")


def find_layers(model: nn.Module, name: str | None = None) -> list[nn.Module]:
    """The layers of ``model`` in the order in which they run.

    Args:
        model: any network that keeps its layers in a list.
        name: dotted name of that list; None looks under the usual names, then for the only list.

    Raises:
        ConfigError: ``name`` is no list of layers, there is none, or there are several.
    """
    lists = _lists(model)
    if name is not None:
        if name not in lists:
            raise ConfigError(f"layers is {shown(name)}, no list of layers; {_known(name, lists)}")
        return list(lists[name])
    for usual in _usual():
        if usual in lists:
            return list(lists[usual])
    outer = {n: found for n, found in lists.items() if not _inside(n, lists)}
    if len(outer) == 1:
        return list(next(iter(outer.values())))
    if not outer:
        raise ConfigError(
            f"{type(model).__name__} has no ModuleList of layers; hold the layers in an "
            f"nn.ModuleList, or attach to the module that has one"
        )
    raise ConfigError(
        f"{type(model).__name__} has several lists that could be its layers: "
        f"{', '.join(sorted(outer))}; name one, for example layers={min(outer)!r}"
    )


def _usual() -> list[str]:
    """The usual names, and those within one wrapper."""
    return [*_USUAL, *(f"{outer}.{name}" for outer in _WRAPPERS for name in _USUAL)]


def _lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Every list whose members all have a matrix: a list of norms is no list of layers."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) > 0
        and all(any(p.ndim > 1 for p in member.parameters()) for member in module)
    }


def _inside(name: str, lists: dict[str, nn.ModuleList]) -> bool:
    """Whether a list belongs to a member of another, as experts belong to a layer."""
    return any(name.startswith(f"{other}.") for other in lists)


def _known(name: str, lists: dict[str, nn.ModuleList]) -> str:
    return nearest(name, lists) if lists else "the model has no ModuleList of layers"


def callable_parts(model: nn.Module, layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The model, and the modules between it and its layers, which can be called in its place.

    A wrapper (DataParallel, a compiled module, an adapter) may be attached while the loop calls
    what it wraps.
    """
    parts = [model]
    here: nn.Module = model
    while (inner := _holder(here, layers[0])) is not None:
        here = inner
        if type(here).forward is not nn.Module.forward:
            parts.append(here)
    return parts


def _holder(module: nn.Module, layer: nn.Module) -> nn.Module | None:
    """The child that has a layer within it; None if it is the layer itself."""
    for child in module.children():
        if child is not layer and any(part is layer for part in child.modules()):
            return child
    return None


class HearsLayers(Protocol):
    """Hears of every layer of a call. Must not raise."""

    def enter_layer(self, number: int, x: Tensor) -> None:
        """States that go into a layer, counted from 1."""
        ...

    def leave_layer(self, number: int, output: object) -> None:
        """What comes out of a layer."""
        ...


def hook_layers(
    on: ExitStack,
    layers: Sequence[nn.Module],
    listener: HearsLayers,
    compiled: Collection[nn.Module],
) -> None:
    """Tell of every layer; the hooks come off when ``on`` is closed.

    Those that are compiled as a whole, and the modules around them, are seen from outside only.
    """
    for number, layer in enumerate(layers, start=1):
        _hook_layer(on, layer, number, listener, whole=layer in compiled)


def _hook_layer(
    on: ExitStack, layer: nn.Module, number: int, listener: HearsLayers, *, whole: bool
) -> None:
    # What keeps Dynamo out takes longer than the hook itself: only where it is at work.
    enter, leave = listener.enter_layer, listener.leave_layer
    apart = unseen(enter), unseen(leave)
    is_compiling = torch.compiler.is_compiling

    def before(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        compiling = is_compiling()
        if whole and compiling:
            return
        states = args[0] if args else None
        if not isinstance(states, Tensor):
            states = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        if states is not None:
            (apart[0] if compiling else enter)(number, states)

    def after(module: nn.Module, args: object, output: object) -> None:
        compiling = is_compiling()
        if not (whole and compiling):
            (apart[1] if compiling else leave)(number, output)

    on.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
    on.callback(layer.register_forward_hook(after).remove)
