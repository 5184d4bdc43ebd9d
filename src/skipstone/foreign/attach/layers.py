"""Where a foreign model keeps its layers."""

from __future__ import annotations

from torch import nn

from skipstone.errors import ConfigError, nearest
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
    for usual in _USUAL:
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
