"""Which weights a foreign model has: a fingerprint of each tensor, made on its device.

Every weight is read twice, as any forward reads it once, and what comes to the host is one number
of each tensor, of all of them at once. A change of one value shows, and so does another order of
rows or columns.

Shape letters: R rows of a weight, C its columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers of as many bytes as a value."""
# What wraps a model, or one of its layers, and does not compute: the same weights by other names.
_WRAPPED = re.compile(r"(^|(?<=\.))(_orig_mod|base_layer|module|base_model\.model)\.")

# Weights of fewer bits are buffers; others are tables that a model computes, such as its angles.
_QUANTISED = re.compile(r"weight|scale|zero|absmax")


def fingerprints(model: nn.Module) -> dict[str, str]:
    """Dtype, shape and fingerprint of each weight, by name.

    Weights that two names share, such as those of a tied head, are named by both. Tensors without
    values here (on no device, or of a kind of their own) are left out.
    """
    with torch.no_grad():
        found = [(name, weight, _number(weight)) for name, weight in _weights(model)]
    known = [(name, weight, number) for name, weight, number in found if number is not None]
    numbers = _on_host([number for _, _, number in known])
    return {
        _WRAPPED.sub("", name): f"{_described(weight)} {number & (1 << 64) - 1:016x}"
        for (name, weight, _), number in zip(known, numbers, strict=True)
    }


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, buffer in module.named_buffers(recurse=False):
            if _QUANTISED.search(name):
                yield f"{prefix}.{name}" if prefix else name, buffer


def _number(weight: Tensor) -> Tensor | None:
    """One number, int64 on the device of the weight; None if it has no values of its own."""
    of_its_own = type(weight) not in (Tensor, nn.Parameter)
    if of_its_own or weight.layout != torch.strided or weight.is_meta or not weight.numel():
        return None
    values = weight.detach().contiguous()
    if values.is_quantized or values.element_size() not in _WHOLE:
        return None
    rows_RC = values.reshape(-1, values.shape[-1]) if values.dim() else values.reshape(1, 1)
    # Eight bytes as one number: nothing is converted, and the processor adds them as they are.
    packed = rows_RC.shape[1] * rows_RC.element_size() % 8 == 0
    whole_RC = rows_RC.view(torch.int64 if packed else _WHOLE[rows_RC.element_size()])
    rows_R, columns_C = (whole_RC.sum(dim, dtype=torch.int64) for dim in (1, 0))
    return _mixed(rows_R) + _mixed(columns_C) * 2


def _mixed(sums_N: Tensor) -> Tensor:
    """One number of many, that depends on their order; it wraps around alike on every device."""
    at_N = torch.arange(1, len(sums_N) + 1, device=sums_N.device)
    odd_N = at_N * 0x5851F42D4C957F2D ^ at_N * 0x14057B7EF767814F >> 17
    # The upper bits, such as a sign, take part in the lower ones.
    return ((sums_N ^ sums_N >> 31) * (2 * odd_N + 1)).sum()


def _on_host(numbers: list[Tensor]) -> list[int]:
    """Waits once for each device."""
    devices = dict[torch.device, list[int]]()
    for i, number in enumerate(numbers):
        devices.setdefault(number.device, []).append(i)
    found = [0] * len(numbers)
    for places in devices.values():
        values = torch.stack([numbers[i] for i in places]).tolist()
        for i, value in zip(places, values, strict=True):
            found[i] = value
    return found


def _described(weight: Tensor) -> str:
    return f"{str(weight.dtype).removeprefix('torch.')} {list(weight.shape)}"
