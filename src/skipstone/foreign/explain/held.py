"""What a function of the user's holds on to, may change, and must find again as it was.

Followed are the names that the function reads (of its closure, its module, its defaults, the object
it belongs to), and the other functions of its own module that these lead to.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

# Of lists in dictionaries in objects.
_DEPTH = 4
# Runs do not change what objects of these contain.
_NOT_THEIRS = ("builtins", "numpy", "skipstone", "torch", "transformers")


@dataclass(frozen=True, eq=False)
class SavedState:
    """One thing that can change, as it was."""

    name: str
    contents: bool
    """Whether it is a name or a container, in which a run may leave something for the next."""
    changed: Callable[[], bool]
    put_back: Callable[[], None]


@dataclass(eq=False)
class Holdings:
    """All that functions hold on to."""

    held: list[SavedState] = field(default_factory=list)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    """Networks, by the first name that leads to them."""
    _seen: dict[int, object] = field(default_factory=dict)

    def add(self, function: object, depth: int = _DEPTH) -> None:
        """Follow a function, or any object that can be called."""
        if id(function) in self._seen:
            return
        self._seen[id(function)] = function
        if isinstance(function, functools.partial):
            self.add(function.func, depth)
            for i, value in enumerate((*function.args, *function.keywords.values())):
                self._value(f"argument {i}", value, depth)
        elif isinstance(function, MethodType):
            self._value("self", function.__self__, depth)
            self.add(function.__func__, depth)
        elif isinstance(function, FunctionType):
            self._function(function, depth)
        else:
            self._value(type(function).__name__, function, depth)

    def _function(self, function: FunctionType, depth: int) -> None:
        for name, cell in _cells(function):
            self._cell(name, cell)
            self._value(name, cell.cell_contents, depth)
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._value("a default", value, depth)
        names = function.__globals__
        for name in _names(function):
            if name in names and not name.startswith("__"):
                self._global(name, names)
                value = names[name]
                inner = inspect.unwrap(value) if callable(value) else value
                if isinstance(inner, FunctionType) and inner.__globals__ is names:
                    self.add(inner, depth)
                self._value(name, value, depth)

    def _cell(self, name: str, cell: CellType) -> None:
        before = cell.cell_contents

        def put_back() -> None:
            cell.cell_contents = before

        self.held.append(SavedState(name, True, lambda: _now(cell) is not before, put_back))

    def _global(self, name: str, names: dict[str, Any]) -> None:
        before = names[name]
        if isinstance(before, ModuleType):
            return

        def put_back() -> None:
            names[name] = before

        self.held.append(SavedState(name, True, lambda: names.get(name) is not before, put_back))

    def _value(self, name: str, value: object, depth: int) -> None:
        if isinstance(value, (FunctionType, MethodType, ModuleType, type)) or depth == 0:
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, nn.Module):
            self.modules.setdefault(name, value)
        elif isinstance(value, (Tensor, np.ndarray)):
            self.held.append(of_tensor(name, value))
        elif isinstance(value, (list, dict, set)):
            self.held.append(_of_container(name, value))
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            for key, part in list(inner):
                self._value(f"{name}[{key!r}]", part, depth - 1)
        elif isinstance(value, tuple):
            for i, part in enumerate(value):
                self._value(f"{name}[{i}]", part, depth - 1)
        elif (generator := _of_generator(name, value)) is not None:
            self.held.append(generator)
        elif type(value).__module__.partition(".")[0] not in _NOT_THEIRS:
            attributes = getattr(value, "__dict__", None)
            if isinstance(attributes, dict):
                self.held.append(_of_container(f"{name}.__dict__", attributes))
                for key, part in list(attributes.items()):
                    self._value(f"{name}.{key}", part, depth - 1)


def of_tensor(name: str, value: Tensor | np.ndarray) -> SavedState:
    """The numbers of a tensor or an array."""
    if isinstance(value, np.ndarray):
        array, copied = value, value.copy()

        def restore_array() -> None:
            if array.flags.writeable:
                array[...] = copied

        return SavedState(name, False, lambda: not _same_array(array, copied), restore_array)
    tensor, before = value, value.detach().clone()

    def restore() -> None:
        # In inference mode too: a tensor made there can be written there only.
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            if tensor.shape != before.shape:
                tensor.resize_(before.shape)
            tensor.copy_(before)

    return SavedState(name, False, lambda: not same_tensor(tensor, before), restore)


def same_tensor(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, bit for bit as far as numbers go: NaN is NaN."""
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    if a.is_floating_point():
        return bool(((a == b) | (a.isnan() & b.isnan())).all())
    return torch.equal(a, b)


def _same_array(a: np.ndarray, b: np.ndarray) -> bool:
    nan = a.dtype.kind in "fc"
    return np.array_equal(a, b, equal_nan=nan)


def _of_container(name: str, value: list[Any] | dict[Any, Any] | set[Any]) -> SavedState:
    """What a container has in it; the things themselves are held on their own."""
    before = value.copy()

    def changed() -> bool:
        if isinstance(value, set):
            return value != before
        now, old = (list(v.items()) if isinstance(v, dict) else list(v) for v in (value, before))
        return len(now) != len(old) or any(not _is(x, y) for x, y in zip(now, old, strict=True))

    def put_back() -> None:
        if isinstance(value, list):
            value[:] = before
        else:
            value.clear()
            cast("Any", value).update(before)

    return SavedState(name.removesuffix(".__dict__"), True, changed, put_back)


def _is(x: object, y: object) -> bool:
    """The same thing, or the same pair of a key and a thing."""
    if isinstance(x, tuple) and isinstance(y, tuple) and len(x) == len(y) == 2:
        return x[0] == y[0] and x[1] is y[1]
    return x is y


def _of_generator(name: str, value: object) -> SavedState | None:
    """Random numbers of one's own."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return SavedState(
            name,
            False,
            lambda: not torch.equal(value.get_state(), state),
            lambda: cast("None", value.set_state(state)),
        )
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        was = value.getstate()
        return SavedState(name, False, lambda: value.getstate() != was, lambda: value.setstate(was))
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        kept = dict(bits.state)

        def put_back() -> None:
            bits.state = kept

        return SavedState(name, False, lambda: str(bits.state) != str(kept), put_back)
    return None


def _cells(function: FunctionType) -> Iterator[tuple[str, CellType]]:
    """Names of the closure that have a value."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if _now(cell) is not _EMPTY:
            yield name, cell


_EMPTY = object()


def _now(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


def _names(function: FunctionType) -> Iterator[str]:
    """Global names that a function reads, those of the functions within it as well."""
    codes = [function.__code__]
    for code in codes:
        yield from code.co_names
        codes += [part for part in code.co_consts if inspect.iscode(part)]
