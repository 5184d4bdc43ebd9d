"""What a foreign call was given beside its token ids: tensors, plain values, a configuration."""

from __future__ import annotations

import sysconfig
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from dis import get_instructions
from functools import cache
from types import CodeType, FrameType
from zlib import crc32

import torch
from torch import Tensor, nn

from skipstone.foreign.attach.plain import plain_fields, plain_text
from skipstone.foreign.shared.calls import Call
from skipstone.foreign.shared.source import named_parameters, parameters, user_frames
from skipstone.record import ASSIGNED, Event

# Larger tensors are states or caches, which are recorded otherwise.
_LARGEST = 1 << 20
# A loop that is called by others: its own arguments and those of so many functions above it.
_FRAMES = 4
# Kept of one run: arguments that change in every call would fill a trace.
_KEPT = 256


@dataclass(frozen=True, eq=False)
class _Looked:
    """A tensor that was looked at."""

    tensor: weakref.ref[Tensor]
    version: int
    """Counts what was written into it."""
    found: tuple[str, dict[str, float]]


class GivenTensors:
    """Tensor arguments of calls, reported when they change from one call to the next."""

    def __init__(self) -> None:
        """Nothing was given yet."""
        self._looked = dict[str, _Looked]()
        self._last = dict[str, str]()
        self._told = 0

    def note(self, call: Call, forward: int, source: str) -> Iterator[Event]:
        """What is new in a call."""
        now = {name: self._look(name, t) for name, t in _tensors(call)}
        for name in [*now, *(self._last.keys() - now.keys())]:
            text, numbers = now.get(name, ("not given", {}))
            if self._last.get(name) == text or self._told >= _KEPT:
                continue
            self._told += 1
            self._last[name] = text
            yield Event(
                kind="given",
                message=f"{name} is {text}",
                source=source,
                forward=forward,
                numbers=numbers,
            )

    def _look(self, name: str, tensor: Tensor) -> tuple[str, dict[str, float]]:
        """What a tensor is; the one of the call before is not read again."""
        old = self._looked.get(name)
        # Tensors of inference mode do not count what is written into them.
        version = -1 if tensor.is_inference() else tensor._version
        if old is not None and old.tensor() is tensor and old.version == version >= 0:
            return old.found
        found = _described(tensor)
        self._looked[name] = _Looked(weakref.ref(tensor), version, found)
        return found


def _tensors(call: Call) -> Iterator[tuple[str, Tensor]]:
    for name, value in call.arguments.items():
        own = value is call.ids or value is call.embeds
        if isinstance(value, Tensor) and not own and value.numel() <= _LARGEST:
            yield name, value


def _described(tensor: Tensor) -> tuple[str, dict[str, float]]:
    """Shape, dtype and a checksum; of a mask also how much of it can be seen."""
    values = tensor.detach().cpu().contiguous()
    dtype = str(values.dtype).removeprefix("torch.")
    raw = values.flatten().view(torch.uint8).numpy().tobytes()
    text = f"{dtype} {list(values.shape)}, checksum {crc32(raw):08x}"
    flags = values.dtype in (torch.bool, torch.int64, torch.int32)
    if not flags or not bool(((values == 0) | (values == 1)).all()):
        return text, {}
    numbers = {"visible": float(values.sum()), "total": float(values.numel())}
    return f"{text}, {values.sum():.0f} of {values.numel()} visible", numbers


def plain_arguments(call: Call, frame: FrameType) -> dict[str, str]:
    """Plain values passed to the model, over those passed to the functions that led there.

    A function that sets its own argument hides what it was given: such a value has a name that ends
    with ``ASSIGNED``.
    """
    plain = dict[str, object]()
    for above in reversed(list(_frames(frame))):
        own = _set_by(above.f_code)
        plain |= {n + ASSIGNED if n in own else n: v for n, v in parameters(above).items()}
    # What a loop lists in a call is of that call, as the rows that it replaces.
    plain |= {n: v for n, v in call.arguments.items() if type(v) not in (list, tuple)}
    return {name: text for name, v in plain.items() if (text := plain_text(v)) is not None}


def settings_within(frame: FrameType) -> tuple[dict[str, str], frozenset[str]]:
    """Plain values within the objects that a loop was given, and the names of all its arguments.

    The loop is the outermost function with a loop in it, of the file that calls the model: what it
    hands to others of that file it may have computed, and what functions around it are given may be
    a user's own harness's.
    """
    own, more = dict[str, object](), dict[str, object]()
    for above in _frames(frame):
        if above.f_code.co_filename != frame.f_code.co_filename:
            break
        if _repeats(above.f_code) or not own:
            more = named_parameters(above)
            own = parameters(above) | more
    within = {name: text for name, v in more.items() if (text := plain_text(v)) is not None}
    for name, value in own.items():
        within |= plain_fields(name, value) if plain_text(value) is None else {}
    return within, frozenset(own)


def configuration(model: nn.Module) -> dict[str, str]:
    """The plain values of ``model.config``, by names that begin with ``config.``."""
    return plain_fields("config", getattr(model, "config", None))


def _frames(frame: FrameType) -> Iterator[FrameType]:
    """The function that called the model, and those of the user's own code above it."""
    for count, above in enumerate(user_frames(frame)):
        if count > _FRAMES or _of_library(above.f_code.co_filename):
            return
        yield above


@cache
def _of_library(filename: str) -> bool:
    """Whether a file is part of Python, or was installed."""
    return "site-packages" in filename or filename.startswith(sysconfig.get_paths()["stdlib"])


@cache
def _repeats(code: CodeType) -> bool:
    """Whether a function has a loop in it."""
    return any("BACKWARD" in i.opname or i.opname == "FOR_ITER" for i in get_instructions(code))


@cache
def _set_by(code: CodeType) -> frozenset[str]:
    """The names that a function sets somewhere."""
    return frozenset(i.argval for i in get_instructions(code) if i.opname.startswith("STORE_"))
