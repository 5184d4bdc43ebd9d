"""What lies in a model's folder: its shards, or the reason why it holds no model.

Weights come from safetensors files alone. A folder that holds something else says what that is and
what to do with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skipstone.errors import CheckpointError
from skipstone.files import read_json
from skipstone.quoting import shown

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_LONGEST = 255  # characters of a name that a disk takes
_ADAPTER = "adapter_config.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_FOREIGN = {
    "GGUF weights": "*.gguf",
    "GGML weights": "*.ggml",
    "ONNX weights": "*.onnx",
    "TensorFlow weights": "*.h5",
    "Flax weights": "*.msgpack",
    "NumPy weights": "*.npz",
}
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def check_folder(directory: Path) -> None:
    """Refuse a folder that holds no checkpoint, and say what it holds instead.

    Raises:
        CheckpointError: there is no config.json, or the weights are an adapter's.
    """
    if (directory / _ADAPTER).exists() and not _has_weights(directory):
        raise CheckpointError(_adapter(directory))
    if (directory / CONFIG).exists():
        return
    if reason := _diffusers(directory) or _foreign(directory) or _pickled(directory):
        raise CheckpointError(f"{directory} {reason}")
    raise CheckpointError(f"{directory}/{CONFIG} does not exist; {_where_else(directory)}")


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
    if any("-of-" in name for name in loose):
        raise CheckpointError(
            f"{directory} holds shards ({listed(loose)}) but no {INDEX}; download it too"
        )
    if loose:
        raise CheckpointError(
            f"{directory} holds {listed(loose)}, but weights are read from {SINGLE} or from the "
            f"shards of {INDEX}; download those, or rename the file if it is the whole model"
        )
    if reason := _pickled(directory) or _foreign(directory):
        raise CheckpointError(f"{directory} {reason}")
    raise CheckpointError(
        f"{directory} holds no weights: neither {SINGLE} nor {INDEX}; download the checkpoint again"
    )


def listed(names: Sequence[str], separator: str = ", ", most: int = 8) -> str:
    """The first few names, and how many more there are."""
    rest = f"{separator}and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + rest


def _indexed_shards(directory: Path) -> list[Path]:
    index = directory / INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; download it again")
    names = sorted({str(name) for name in weight_map.values()})
    # A name with a folder in it could read any file; a cache's links inside the directory are fine.
    strange = [
        n
        for n in names
        if Path(n).name != n or not n.endswith(".safetensors") or len(n) > _LONGEST or "\0" in n
    ]
    if strange:
        raise CheckpointError(
            f"{index} names {listed(strange)}, must be safetensors files in the same directory; "
            f"download it again"
        )
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{directory} lacks {len(missing)} of {len(names)} shards: {listed(missing)}; "
            f"download them again"
        )
    return [directory / name for name in names]


def _has_weights(directory: Path) -> bool:
    return (directory / INDEX).exists() or (directory / SINGLE).exists()


def _adapter(directory: Path) -> str:
    described = read_json(directory / _ADAPTER)
    kind, base = described.get("peft_type"), described.get("base_model_name_or_path")
    of = f" of {shown(base)}" if isinstance(base, str) and base else ""
    kind = f"{kind} adapter" if isinstance(kind, str) and kind else "adapter"
    return (
        f"{directory} holds a PEFT {kind}{of}, not a model; merge it into its base "
        f"(PeftModel.merge_and_unload, then save_pretrained) and give the folder of the result"
    )


def _pickled(directory: Path) -> str:
    files = sorted(p.name for kind in _PICKLED for p in directory.glob(kind))
    if not files:
        return ""
    return (
        f"holds only pickled weights ({listed(files)}), which can run code when opened; convert "
        f"them to safetensors (save_pretrained with safe_serialization=True)"
    )


def _foreign(directory: Path) -> str:
    for kind, pattern in _FOREIGN.items():
        if files := sorted(p.name for p in directory.glob(pattern)):
            return (
                f"holds only {kind} ({listed(files)}), which Skipstone does not read; download the "
                f"original checkpoint with its *.safetensors"
            )
    return ""


def _diffusers(directory: Path) -> str:
    if not (directory / "model_index.json").exists():
        return ""
    return (
        "holds a pipeline of the diffusers library (model_index.json), not a language model; "
        "choose the checkpoint of a diffusion language model"
    )


def _where_else(directory: Path) -> str:
    """Where the model may be instead, or what is missing."""
    patterns = (f"*/{CONFIG}", f"snapshots/*/{CONFIG}", f"*/snapshots/*/{CONFIG}")
    below = sorted({path.parent for pattern in patterns for path in directory.glob(pattern)})
    if below:
        names = listed([str(path.relative_to(directory)) for path in below], most=3)
        return f"but there is one in {names}: give that folder ({below[0]})"
    if (directory.resolve().parent / CONFIG).exists():
        return f"but there is one in the folder above it: give {directory.resolve().parent}"
    if any((directory / name).exists() for name in _TOKENIZER) and not any(
        directory.glob("*.safetensors")
    ):
        return "the folder holds a tokenizer and no model; download config.json and *.safetensors"
    return "a model directory holds config.json, tokenizer.json and *.safetensors"
