"""Read the weights of a published checkpoint: safetensors shards, nothing else.

The headers say whether names, shapes and dtypes fit before anything is allocated. Then tensors go
from the mapped file straight into the weights on the target device, one at a time, so the peak
beyond the weights is one mapped shard. No pickle, no remote code.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from skipstone.errors import CheckpointError, ConfigError
from skipstone.models import table
from skipstone.models.base import ModelConfig, Network
from skipstone.models.folder import find_shards, listed
from skipstone.models.names import WeightNames
from skipstone.quoting import one_line

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

_LFS = b"version https://git-lfs.github.com/spec/"


@contextmanager
def _opened(path: Path) -> Generator[safe_open, None, None]:
    try:
        # safetensors maps the file; `with` unmaps it before the next shard is opened.
        with safe_open(str(path), framework="pt", device="cpu") as shard:
            yield shard
    except SafetensorError as error:
        if _is_pointer(path):
            raise CheckpointError(
                f"{path} is a pointer of Git LFS, not the weights; run 'git lfs pull' in its folder"
            ) from None
        raise CheckpointError(
            f"{path} is truncated or no safetensors file ({one_line(error)}); download it again"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({one_line(error)}); check the file and its permissions"
        ) from None


def _is_pointer(path: Path) -> bool:
    """Whether a clone without Git LFS left the description of a file in its place."""
    with path.open("rb") as file:
        return file.read(len(_LFS)) == _LFS


@dataclass(frozen=True)
class _Stored:
    """One tensor as a shard's header describes it."""

    name: str
    shard: str
    dtype: str
    shape: tuple[int, ...]


def _read_headers(shards: Sequence[Path]) -> list[_Stored]:
    """All tensors of a checkpoint; reads no weights."""
    found = list[_Stored]()
    for path in shards:
        with _opened(path) as shard:
            for name in shard.keys():
                part = shard.get_slice(name)
                shape = tuple(part.get_shape())
                found.append(_Stored(name, path.name, part.get_dtype(), shape))
    return found


def stored_dtype(directory: Path, names: WeightNames) -> torch.dtype:
    """The one floating dtype that all tensors are stored in.

    Args:
        directory: holds the safetensors shards.
        names: of the architecture; some of its weights may be stored otherwise.

    Raises:
        CheckpointError: tensors are stored in several dtypes, or not as floats.
    """
    stored = _read_headers(find_shards(directory))
    _check_floats(directory, stored)
    stored = [tensor for tensor in stored if not names.takes_any_float(tensor.name)]
    kinds = sorted({tensor.dtype for tensor in stored})
    if not kinds:
        raise CheckpointError(f"{directory}: the weights hold no tensors; download them again")
    if len(kinds) > 1:
        counts = ", ".join(f"{sum(t.dtype == kind for t in stored)} in {kind}" for kind in kinds)
        raise CheckpointError(
            f"{directory}: tensors are stored in mixed dtypes ({counts}), must be one; choose it "
            f"with dtype='float32' (--dtype float32)"
        )
    return FLOATS[kinds[0]]


def _check_floats(directory: Path, stored: Sequence[_Stored]) -> None:
    """Refuse quantised tensors: without their scales the values mean nothing."""
    strange = [tensor for tensor in stored if tensor.dtype not in FLOATS]
    if strange:
        kinds = ", ".join(sorted({tensor.dtype for tensor in strange}))
        names = listed(sorted(tensor.name for tensor in strange))
        raise CheckpointError(
            f"{directory}: {len(strange)} tensors are stored as {kinds} ({names}), must be floats; "
            f"quantised checkpoints are not supported, use the original"
        )


def load_network(
    directory: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> Network:
    """Load the weights of a checkpoint.

    Args:
        directory: holds the safetensors shards.
        config: from ``read_config``.
        dtype: of the weights in memory.
        device: where the weights go, each tensor straight from its mapped file.

    Raises:
        CheckpointError: tensors are missing, unexpected, mis-shaped, not finite, or truncated; the
            message lists them.
        ConfigError: the weights do not fit on the device.
    """
    shards = find_shards(directory)
    stored = _read_headers(shards)
    _check_floats(directory, stored)
    _check_names(directory, stored, config)
    network = _allocate(config, dtype, device)
    wanted, tied = network.published(), table.entry_of(config).tied(config)
    problems = list[str]()
    for path in shards:
        with _opened(path) as shard:
            for name in sorted(shard.keys() - tied.keys()):
                problems += _copy(shard, name, wanted[name])
    problems += _untied(shards, wanted, tied)
    if problems:
        raise CheckpointError(
            f"{directory} holds unusable weights: {listed(problems, '; ')}; download them again, "
            f"or choose dtype='float32' (--dtype float32) if they only overflow"
        )
    return network


def _check_names(directory: Path, stored: Sequence[_Stored], config: ModelConfig) -> None:
    """Compare what the headers describe with what config.json asks for, before allocating it."""
    if config.num_layers > len(stored):
        raise _too_few(directory, stored, f"{config.num_layers} layers")
    moe = config.moe
    if moe is not None and moe.num_experts * (config.num_layers - moe.first_layer) > len(stored):
        raise _too_few(directory, stored, f"{moe.num_experts} experts in each layer")
    entry = table.entry_of(config)
    wanted = entry.shapes(config)
    tied = {alias: wanted[name] for alias, name in entry.tied(config).items()}
    problems = _name_problems(stored, wanted, tied)
    if problems:
        raise CheckpointError(
            f"{directory} does not match its config.json: {listed(problems, '; ')}; copy both "
            f"from the same published checkpoint"
        )


def _too_few(directory: Path, stored: Sequence[_Stored], what: str) -> CheckpointError:
    return CheckpointError(
        f"{directory} holds {len(stored)} tensors, too few for the {what} of config.json; copy "
        f"both from the same published checkpoint"
    )


def _name_problems(
    stored: Sequence[_Stored],
    wanted: Mapping[str, tuple[int, ...]],
    optional: Mapping[str, tuple[int, ...]],
) -> list[str]:
    allowed = {**wanted, **optional}
    homes = dict[str, str]()
    problems = list[str]()
    for tensor in sorted(stored, key=lambda tensor: tensor.name):
        name, shape = tensor.name, list(tensor.shape)
        if name in homes:
            problems.append(f"{name} is in both {homes[name]} and {tensor.shard}")
        elif name not in allowed:
            problems.append(f"{name} is not a tensor of this architecture")
        elif tensor.shape != allowed[name]:
            problems.append(f"{name} has shape {shape}, expected {list(allowed[name])}")
        homes[name] = tensor.shard
    return [f"{name} is missing" for name in wanted if name not in homes] + problems


def _untied(
    shards: Sequence[Path], weights: Mapping[str, Tensor], tied: Mapping[str, str]
) -> list[str]:
    """Second copies of a tied weight that are not copies: nobody could say which one is meant."""
    problems = list[str]()
    for path in shards:
        with _opened(path) as shard:
            for name in sorted(shard.keys() & tied.keys()):
                weight = weights[tied[name]]
                if not torch.equal(shard.get_tensor(name).to(weight), weight):
                    problems.append(
                        f"{name} differs from {tied[name]}, though config.json says that they are "
                        f"one"
                    )
    return problems


def _allocate(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Network:
    try:
        return table.build(config, dtype, device)
    # The CPU's allocator raises a plain RuntimeError, a GPU's a child of it.
    except RuntimeError as error:
        raise ConfigError(
            f"the weights do not fit on device '{device}' as {dtype} ({one_line(error)}); choose "
            f"another device or a smaller dtype"
        ) from None


def _copy(shard: safe_open, name: str, into: Tensor) -> list[str]:
    """Copy one tensor into its place in the weights; return what is wrong with it."""
    tensor = shard.get_tensor(name)
    into.copy_(tensor)
    # Checked after the cast: a value that overflows the target dtype must not pass either.
    if _is_finite(into):
        return []
    if _is_finite(tensor):
        kind = str(into.dtype).removeprefix("torch.")
        return [f"{name} has values that overflow {kind}"]
    return [f"{name} has NaN or infinite values"]


def _is_finite(tensor: Tensor) -> bool:
    """Whether there is no NaN and no infinity; both reach the extremes, which need no temporary."""
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))
