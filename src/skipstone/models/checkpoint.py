"""Read a published checkpoint as it lies on disk: config.json, safetensors shards, nothing else.

The headers say whether names, shapes and dtypes fit before anything is allocated. Then tensors go
from the mapped file straight into the weights on the target device, one at a time, so the peak
beyond the weights is one mapped shard. No pickle, no remote code.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from skipstone.errors import CheckpointError, ConfigError
from skipstone.files import one_line, read_json
from skipstone.models.base import ModelConfig
from skipstone.models.llada import Layer, LLaDA

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
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
    "rope_full_precision": True,
    "clip_qkv": None,
}
# The rotary tables have this many rows; no LLaDA comes near it, and a typing error must not take
# all memory.
_LONGEST = 1 << 20


class _Fields:
    """Typed access to config.json with errors that name the file, the key and the value."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = read_json(path)

    def integer(
        self, key: str, default: int | None = None, least: int = 1, most: float = math.inf
    ) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            upper = "" if most == math.inf else f" and at most {most}"
            raise self._wrong(key, value, f"an integer of at least {least}{upper}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self._get(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise self._wrong(key, value, "a positive, finite number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def _get(self, key: str, default: object) -> object:
        """The value of ``key``; published files also write null for what they leave open."""
        value = self.values.get(key)
        return default if value is None else value

    def _wrong(self, key: str, value: object, rule: str) -> CheckpointError:
        found = "missing" if value is None else repr(value)
        return CheckpointError(
            f"{self.path}: {key} is {found}, must be {rule}; copy config.json from the published "
            f"checkpoint"
        )


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
        max_length=fields.integer("max_sequence_length", most=_LONGEST),
        rope_theta=fields.number("rope_theta", 10000.0),
        norm_eps=fields.number("rms_norm_eps", 1e-5),
        tied_head=fields.flag("weight_tying", False),
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
            f"{fields.path}: architecture {architecture!r} is not supported; choose a "
            f"dense LLaDA checkpoint (model_type 'llada', architecture LLaDAModelLM)"
        )
    wrong = [
        f"{key}={values[key]!r} (must be {want!r})"
        for key, want in REQUIRED.items()
        if key in values and values[key] != want
    ]
    if wrong:
        raise CheckpointError(
            f"{fields.path}: unsupported settings: {', '.join(wrong)}; use a dense LLaDA checkpoint"
        )


def _check_shape(config: ModelConfig, path: Path) -> None:
    if config.width % config.num_heads or config.head_width % 2:
        raise CheckpointError(
            f"{path}: d_model {config.width} over n_heads {config.num_heads} gives no even head "
            f"width, which rotary embedding needs; check both"
        )
    if config.num_heads % config.num_kv_heads:
        raise CheckpointError(
            f"{path}: n_heads {config.num_heads} is not a multiple of n_kv_heads "
            f"{config.num_kv_heads}; check both"
        )
    for key, value in (("mask_token_id", config.mask_id), ("eos_token_id", config.eos_id)):
        if value >= config.vocab_size:
            raise CheckpointError(
                f"{path}: {key} is {value}, outside the vocabulary of {config.vocab_size}; "
                f"copy config.json from the published checkpoint"
            )
    if config.mask_id == config.eos_id:
        raise CheckpointError(
            f"{path}: mask_token_id and eos_token_id are both {config.mask_id}, must differ; copy "
            f"config.json from the published checkpoint"
        )


def find_shards(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in order.

    Raises:
        CheckpointError: there is none, the index is broken, or a shard it names is missing.
    """
    if (directory / INDEX).exists():
        return _indexed_shards(directory)
    if (directory / SINGLE).exists():
        return [directory / SINGLE]
    loose = sorted(p.name for p in directory.glob("*.safetensors"))
    if loose:
        raise CheckpointError(
            f"{directory} holds shards ({_listed(loose)}) but no {INDEX}; download it too"
        )
    pickled = sorted(p.name for kind in ("*.bin", "*.pt", "*.pth") for p in directory.glob(kind))
    if pickled:
        raise CheckpointError(
            f"{directory} holds only pickled weights ({_listed(pickled)}), which can run code when "
            f"opened; convert them to safetensors"
        )
    raise CheckpointError(
        f"{directory} holds no weights: neither {SINGLE} nor {INDEX}; download the checkpoint again"
    )


def _indexed_shards(directory: Path) -> list[Path]:
    index = directory / INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; download it again")
    names = sorted({str(name) for name in weight_map.values()})
    # A name with a folder in it could read any file; a cache's links inside the directory are fine.
    strange = [n for n in names if Path(n).name != n or not n.endswith(".safetensors")]
    if strange:
        raise CheckpointError(
            f"{index} names {_listed(strange)}, must be safetensors files in the same directory; "
            f"download it again"
        )
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{directory} lacks {len(missing)} of {len(names)} shards: {_listed(missing)}; "
            f"download them again"
        )
    return [directory / name for name in names]


@contextmanager
def _opened(path: Path) -> Generator[safe_open, None, None]:
    try:
        # safetensors maps the file; `with` unmaps it before the next shard is opened.
        with safe_open(str(path), framework="pt", device="cpu") as shard:
            yield shard
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is truncated or no safetensors file ({one_line(error)}); download it again"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({one_line(error)}); check the file and its permissions"
        ) from None


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


def stored_dtype(directory: Path) -> torch.dtype:
    """The one floating dtype that all tensors are stored in.

    Raises:
        CheckpointError: tensors are stored in several dtypes, or not as floats.
    """
    stored = _read_headers(find_shards(directory))
    _check_floats(directory, stored)
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
        names = _listed(sorted(tensor.name for tensor in strange))
        raise CheckpointError(
            f"{directory}: {len(strange)} tensors are stored as {kinds} ({names}), must be floats; "
            f"quantised checkpoints are not supported, use the original"
        )


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
        ConfigError: the weights do not fit on the device.
    """
    shards = find_shards(directory)
    stored = _read_headers(shards)
    _check_floats(directory, stored)
    _check_names(directory, stored, config)
    network = _allocate(config, dtype, device)
    wanted = network.published()
    problems = list[str]()
    for path in shards:
        with _opened(path) as shard:
            for name in sorted(shard.keys()):
                problems += _copy(shard, name, wanted[name])
    if problems:
        raise CheckpointError(
            f"{directory} holds unusable weights: {_listed(problems, '; ')}; download them again, "
            f"or choose dtype='float32' (--dtype float32) if they only overflow"
        )
    return network


def published_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a checkpoint must have; allocates nothing."""
    root, table = "model.transformer.", (config.vocab_size, config.width)
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}wte.weight": table,
        f"{root}ln_f.weight": (config.width,),
    }
    if not config.tied_head:
        shapes[f"{root}ff_out.weight"] = table
    # A layer, and not the whole network: its rotary tables would make torch load its compiler to
    # compute on the meta device, which takes a second and 80 MB.
    layer = Layer(config, torch.float32, torch.device("meta")).published()
    for i in range(config.num_layers):
        shapes |= {f"{root}blocks.{i}.{name}": tuple(view.shape) for name, view in layer.items()}
    return shapes


def _check_names(directory: Path, stored: Sequence[_Stored], config: ModelConfig) -> None:
    """Compare what the headers describe with what config.json asks for, before allocating it."""
    if config.num_layers > len(stored):
        raise CheckpointError(
            f"{directory} holds {len(stored)} tensors, too few for the n_layers "
            f"{config.num_layers} of config.json; copy both from the same published checkpoint"
        )
    problems = _name_problems(stored, published_shapes(config))
    if problems:
        raise CheckpointError(
            f"{directory} does not match its config.json: {_listed(problems, '; ')}; copy both "
            f"from the same published checkpoint"
        )


def _name_problems(stored: Sequence[_Stored], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    homes = dict[str, str]()
    problems = list[str]()
    for tensor in sorted(stored, key=lambda tensor: tensor.name):
        name, shape = tensor.name, list(tensor.shape)
        if name in homes:
            problems.append(f"{name} is in both {homes[name]} and {tensor.shard}")
        elif name not in wanted:
            problems.append(f"{name} is not a tensor of this architecture")
        elif tensor.shape != wanted[name]:
            problems.append(f"{name} has shape {shape}, expected {list(wanted[name])}")
        homes[name] = tensor.shard
    return [f"{name} is missing" for name in wanted if name not in homes] + problems


def _allocate(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> LLaDA:
    try:
        return LLaDA(config, dtype, device)
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


def _listed(names: Sequence[str], separator: str = ", ", most: int = 8) -> str:
    """The first few names, and how many more there are."""
    rest = f"{separator}and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + rest
