"""Load a model: network, text and identity in one object."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Never

import torch

from skipstone.errors import ConfigError, nearest
from skipstone.models import locate, table
from skipstone.models.base import ModelConfig, Network
from skipstone.models.checkpoint import load_network, stored_dtype
from skipstone.models.config import read_config
from skipstone.models.fingerprint import fingerprint
from skipstone.models.recommended import Recommended, read_recommended, read_stop_ids
from skipstone.ops import prefetch
from skipstone.quoting import cut, shown
from skipstone.text import Text

_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
# What torch, NumPy and people call the same.
_SHORT = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float": "float32",
    "single": "float32",
    "fp64": "float64",
    "double": "float64",
}


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model, ready for an engine."""

    name: str
    network: Network
    text: Text
    stop_ids: tuple[int, ...] = ()
    """Ids beside EOS that end an answer."""
    recommended: Recommended = field(default_factory=Recommended)
    """How to decode with it where its user says nothing."""

    @property
    def config(self) -> ModelConfig:
        """Shape and special ids."""
        return self.network.config

    @cached_property
    def fingerprint(self) -> str:
        """Checksum over every weight, computed when it is first asked for."""
        return fingerprint(self.network.published())

    def __repr__(self) -> str:
        """The call that loads this model again."""
        dtype = str(self.network.dtype).removeprefix("torch.")
        return f"load({self.name!r}, device={str(self.network.device)!r}, dtype={dtype!r})"


def load(
    name_or_dir: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    local_files_only: bool = False,
    **unknown: Never,
) -> Model:
    """Load a checkpoint of a supported architecture, in the published file layout.

    Args:
        name_or_dir: ``"pebble"`` (embedded), a directory, or a hub name found in the local cache or
            downloaded.
        device: a torch device or its name; ``"auto"`` takes the GPU if there is one.
        dtype: ``"bfloat16"``, ``"float16"``, ``"float32"``, ``"float64"``, their short names
            (``"bf16"``, ``"half"``, ...) or torch's own objects; ``"auto"`` is float32 on a CPU and
            the stored dtype elsewhere.
        local_files_only: take a hub name from the local cache or not at all.
        unknown: nothing; other names are refused with the nearest known one.

    Raises:
        CheckpointError: files are missing, broken or unsupported; the message lists them.
        ConfigError: the device or dtype does not exist here, or an argument is unknown.
    """
    for name in unknown:
        known = ("device", "dtype", "local_files_only")
        raise ConfigError(f"load has no argument {shown(name)}; {nearest(name, known)}")
    place = _device(device)
    kind = None if isinstance(dtype, str) and dtype == "auto" else dtype_named(dtype)
    directory = locate.find(name_or_dir, local_files_only=local_files_only)
    config = read_config(directory)
    if kind is None:
        stored = stored_dtype(directory, table.entry_of(config).names)
        kind = torch.float32 if place.type == "cpu" else stored
    prefetch.fetch(place)
    text = Text.read(directory, config.mask_id, config.eos_id, config.vocab_size)
    entry = table.entry_of(config)
    recommended = read_recommended(directory, entry)
    stop_ids = read_stop_ids(directory, entry, text, config)
    network = load_network(directory, config, kind, place)
    return Model(str(name_or_dir), network, text, stop_ids, recommended)


def _device(name: object) -> torch.device:
    if isinstance(name, str) and name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if not isinstance(name, str | torch.device):
            raise TypeError("a device has a name")
        device = torch.device(name)
        torch.empty(0, device=device)
    # RuntimeError covers most backends; others are not compiled in, or are separate modules.
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        reason, called = str(error).partition("\n")[0], _called(name)
        raise ConfigError(
            f"device {called} cannot be used here ({cut(reason)}); use 'cpu' or 'auto'"
        ) from None
    if device.type == "meta":
        raise ConfigError("device 'meta' holds no values; use 'cpu' or 'auto'")
    return device


def dtype_named(name: object) -> torch.dtype:
    """A floating dtype by any of its names, or from itself.

    Raises:
        ConfigError: there is no such dtype, or weights cannot be computed with in it.
    """
    text = str(name).removeprefix("torch.") if isinstance(name, str | torch.dtype) else ""
    text = _SHORT.get(text, text)
    if text not in _DTYPES:
        known = [*_DTYPES, *_SHORT, "auto"] if text else [*_DTYPES, "auto"]
        raise ConfigError(f"dtype {_called(name)} is unknown; {nearest(text, known)}")
    return _DTYPES[text]


def _called(value: object) -> str:
    """A device or dtype as its user would write it."""
    return shown(str(value) if isinstance(value, torch.device) else value)
