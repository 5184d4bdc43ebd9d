"""Read a published checkpoint as it lies on disk: config.json, safetensors shards, nothing else.

Tensors go from the mapped file straight into the weights on the target device, one at a time, so
the peak beyond the weights is one mapped shard. No pickle, no remote code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from skipstone.errors import CheckpointError
from skipstone.files import read_json
from skipstone.models.base import ModelConfig
from skipstone.models.llada import LLaDA

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PIECE = 1 << 22
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

# Values that our LLaDA implements; a checkpoint that says otherwise is another architecture.
REQUIRED: dict[str, object] = {
    "block_type": "llama",
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "rope": True,
    "alibi": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "block_group_size": 1,
}


class _Fields:
    """Typed access to config.json with errors that name the file, the key and the value."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = read_json(path)

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise CheckpointError(
                f"{self.path}: {key} is {value!r}, expected an integer of at least {least}"
            )
        return value

    def number(self, key: str, default: float) -> float:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise CheckpointError(f"{self.path}: {key} is {value!r}, expected a positive number")
        return float(value)


def read_config(directory: Path) -> ModelConfig:
    """Read config.json and check that it describes a dense LLaDA.

    Raises:
        CheckpointError: the file is missing or broken, or names another architecture.
    """
    fields = _Fields(directory / "config.json")
    _check_architecture(fields)
    heads = fields.integer("n_heads")
    vocab = fields.integer("vocab_size")
    config = ModelConfig(
        width=fields.integer("d_model"),
        num_layers=fields.integer("n_layers"),
        num_heads=heads,
        num_kv_heads=fields.integer("n_kv_heads", heads),
        mlp_width=fields.integer("mlp_hidden_size"),
        vocab_size=fields.integer("embedding_size", vocab),
        max_length=fields.integer("max_sequence_length"),
        rope_theta=fields.number("rope_theta", 10000.0),
        norm_eps=fields.number("rms_norm_eps", 1e-5),
        tied_head=bool(fields.values.get("weight_tying", False)),
        mask_id=fields.integer("mask_token_id", least=0),
        eos_id=fields.integer("eos_token_id", least=0),
    )
    _check_shape(config, fields.path)
    return config


def _check_architecture(fields: _Fields) -> None:
    values = fields.values
    named = values.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else values.get("model_type")
    if values.get("model_type") != "llada" or architecture not in ("LLaDAModelLM", "llada"):
        raise CheckpointError(
            f"{fields.path}: architecture {architecture!r} is not supported; Skipstone runs dense "
            f"LLaDA checkpoints (LLaDAModelLM)"
        )
    wrong = [
        f"{key}={values[key]!r} (only {want!r})"
        for key, want in REQUIRED.items()
        if key in values and values[key] != want
    ]
    if wrong:
        raise CheckpointError(f"{fields.path}: unsupported settings: {', '.join(wrong)}")


def _check_shape(config: ModelConfig, path: Path) -> None:
    if config.width % config.num_heads or config.head_width % 2:
        raise CheckpointError(
            f"{path}: d_model {config.width} over n_heads {config.num_heads} gives no even head "
            f"width; check both"
        )
    if config.num_heads % config.num_kv_heads:
        raise CheckpointError(
            f"{path}: n_heads {config.num_heads} is not a multiple of n_kv_heads "
            f"{config.num_kv_heads}"
        )
    for key, value in (("mask_token_id", config.mask_id), ("eos_token_id", config.eos_id)):
        if value >= config.vocab_size:
            raise CheckpointError(
                f"{path}: {key} is {value}, outside the vocabulary of {config.vocab_size}"
            )
    if config.mask_id == config.eos_id:
        raise CheckpointError(f"{path}: mask_token_id and eos_token_id are both {config.mask_id}")


def find_shards(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in order.

    Raises:
        CheckpointError: there is none, the index is broken, or a shard it names is missing.
    """
    if (directory / INDEX).exists():
        weight_map = read_json(directory / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{directory / INDEX} has no weight_map; download it again")
        names = sorted({str(name) for name in weight_map.values()})
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise CheckpointError(
                f"{directory / INDEX} names files outside the directory: {', '.join(outside)}"
            )
        missing = [name for name in names if not (directory / name).exists()]
        if missing:
            raise CheckpointError(
                f"{directory} lacks {len(missing)} of {len(names)} shards: {', '.join(missing)}; "
                f"download them again"
            )
        return [directory / name for name in names]
    if (directory / SINGLE).exists():
        return [directory / SINGLE]
    pickled = sorted(p.name for p in directory.glob("*.bin")) + sorted(
        p.name for p in directory.glob("*.pt*")
    )
    if pickled:
        raise CheckpointError(
            f"{directory} holds only pickled weights ({', '.join(pickled)}), which can run code "
            f"when opened; convert them to safetensors"
        )
    raise CheckpointError(f"{directory} holds no {SINGLE} and no {INDEX}")


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    try:
        # safetensors maps the file; `with` unmaps it before the next shard is opened.
        with safe_open(str(path), framework="pt", device="cpu") as shard:
            yield shard
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is truncated or no safetensors file ({error}); download it again"
        ) from None


def _stored_dtypes(shards: list[Path]) -> dict[str, set[str]]:
    """Which tensors are stored in which dtype, read from the headers alone."""
    found: dict[str, set[str]] = {}
    for path in shards:
        with _opened(path) as shard:
            for name in shard.keys():
                found.setdefault(shard.get_slice(name).get_dtype(), set()).add(name)
    return found


def stored_dtype(directory: Path) -> torch.dtype:
    """The one floating dtype that all tensors are stored in.

    Raises:
        CheckpointError: tensors are stored in several dtypes, or not as floats.
    """
    found = _stored_dtypes(find_shards(directory))
    strange = sorted(set(found) - set(FLOATS))
    if strange:
        names = sorted(name for kind in strange for name in found[kind])
        raise CheckpointError(
            f"{directory}: {len(names)} tensors are stored as {', '.join(strange)} "
            f"({_listed(names)}); quantised checkpoints are not supported"
        )
    if len(found) > 1:
        counts = ", ".join(f"{len(names)} in {kind}" for kind, names in sorted(found.items()))
        raise CheckpointError(
            f"{directory}: tensors are stored in mixed dtypes ({counts}); choose one with "
            f"dtype='float32' (--dtype float32)"
        )
    return FLOATS[next(iter(found))]


def load_network(
    directory: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> LLaDA:
    """Load the weights of a checkpoint.

    Args:
        directory: holds the safetensors shards.
        config: from ``read_config``.
        dtype: of the weights in memory.
        device: where the weights go, each tensor straight from its mapped file.

    Raises:
        CheckpointError: tensors are missing, unexpected, mis-shaped, not finite, or truncated; the
            message lists them.
    """
    shards = find_shards(directory)
    network = LLaDA(config, dtype, device)
    wanted = network.published()
    missing, problems = set(wanted), list[str]()
    for path in shards:
        with _opened(path) as shard:
            names = list(shard.keys())
            extra = sorted(set(names) - set(wanted))
            problems += [f"{name} is not a tensor of this architecture" for name in extra]
            for name in sorted(set(names) & set(wanted)):
                missing.discard(name)
                problems += _copy(shard, name, wanted[name])
    problems = [f"{name} is missing" for name in sorted(missing)] + problems
    if problems:
        raise CheckpointError(
            f"{directory} does not match its config.json: {_listed(problems, '; ')}"
        )
    return network


def _copy(shard: safe_open, name: str, into: Tensor) -> list[str]:
    """Copy one tensor into its place in the weights; return what is wrong with it."""
    shape = list(shard.get_slice(name).get_shape())
    if shape != list(into.shape):
        return [f"{name} has shape {shape}, expected {list(into.shape)}"]
    tensor = shard.get_tensor(name)
    if not tensor.is_floating_point():
        return [f"{name} is stored as {tensor.dtype}, expected floats"]
    into.copy_(tensor)
    # Checked after the cast: a value that overflows the target dtype must not pass either.
    # In pieces, because the check makes temporaries as large as what it looks at.
    pieces = into.flatten().split(_PIECE)
    if not all(bool(torch.isfinite(piece).all()) for piece in pieces):
        return [f"{name} has NaN or infinite values"]
    return []


def _listed(names: list[str], separator: str = ", ", most: int = 8) -> str:
    """The first few names, and how many more there are."""
    rest = f"{separator}and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + rest
