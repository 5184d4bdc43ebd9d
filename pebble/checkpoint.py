"""Reads and writes checkpoints: the published model layout, and the state of a training run.

Everything is safetensors and JSON, cut into shards that are small enough to be carried around.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.optim import AdamW

from pebble.model import Pebble, Shape
from pebble.tokenizer import EOS, MASK, save_tokenizer, special_id

MEGABYTE = 1_000_000
# Room for the header of a shard, which names its tensors.
HEADER_ROOM = 50_000


class Progress(NamedTuple):
    """How far a run has come, and the plan it follows."""

    step: int
    total: int


def save_model(model: Pebble, tokenizer: Tokenizer, folder: Path, shard_mb: float) -> None:
    """Write a bf16 model in the published layout."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    places = write_shards(tensors, folder, "model", shard_mb)
    total = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))},
    )
    _write_json(folder / "config.json", config(model.shape))
    save_tokenizer(tokenizer, folder)


def config(shape: Shape) -> dict[str, object]:
    """The content of config.json."""
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "d_model": shape.width,
        "n_heads": shape.heads,
        "n_kv_heads": shape.heads,
        "n_layers": shape.layers,
        "mlp_hidden_size": shape.hidden,
        "mlp_ratio": 4,
        "vocab_size": shape.vocab,
        "embedding_size": shape.vocab,
        "max_sequence_length": shape.max_length,
        "rope": True,
        "rope_theta": shape.rope_theta,
        "rope_full_precision": True,
        "layer_norm_type": "rms",
        "rms_norm_eps": shape.norm_eps,
        "block_type": "llama",
        "activation_type": "silu",
        "include_bias": False,
        "include_qkv_bias": False,
        "bias_for_layer_norm": False,
        "attention_layer_norm": False,
        "weight_tying": False,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "residual_dropout": 0.0,
        "alibi": False,
        "flash_attention": False,
        "block_group_size": 1,
        "input_emb_norm": False,
        "scale_logits": False,
        "mask_token_id": special_id(MASK),
        "eos_token_id": special_id(EOS),
        "pad_token_id": special_id(EOS),
        "torch_dtype": "bfloat16",
        "use_cache": False,
    }


def save_training(
    model: Pebble, optimizer: AdamW, progress: Progress, folder: Path, shard_mb: float
) -> None:
    """Write all that is needed to go on later; progress.json is written last, as a seal."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (folder / "progress.json", *folder.glob("*.safetensors")):
        stale.unlink(missing_ok=True)
    write_shards(model.state_dict(), folder, "weights", shard_mb)
    named = dict(model.named_parameters())
    for moment in ("exp_avg", "exp_avg_sq"):
        tensors = {name: optimizer.state[weight][moment] for name, weight in named.items()}
        write_shards(tensors, folder, moment, shard_mb)
    _write_json(folder / "progress.json", progress._asdict())


def load_training(model: Pebble, optimizer: AdamW, folder: Path) -> Progress:
    """Put a saved run back into a fresh model and optimizer."""
    progress = Progress(**json.loads((folder / "progress.json").read_text()))
    model.load_state_dict(read_shards(folder, "weights"))
    first = read_shards(folder, "exp_avg")
    second = read_shards(folder, "exp_avg_sq")
    for name, weight in model.named_parameters():
        optimizer.state[weight] = {
            "step": torch.tensor(float(progress.step), device=weight.device),
            "exp_avg": first[name].to(weight.device),
            "exp_avg_sq": second[name].to(weight.device),
        }
    return progress


def write_shards(
    tensors: Mapping[str, Tensor], folder: Path, stem: str, shard_mb: float
) -> dict[str, str]:
    """Write numbered shards below a size and tell which tensor is in which."""
    shards = _packed(tensors, int(shard_mb * MEGABYTE) - HEADER_ROOM)
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        content = {name: tensors[name].detach().cpu().contiguous() for name in names}
        save_file(content, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(names, file))
    return places


def read_shards(folder: Path, stem: str) -> dict[str, Tensor]:
    """Read back everything that was written under a stem."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob(f"{stem}-*-of-*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def _packed(tensors: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    room = limit
    for name, tensor in tensors.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= tensor.nbytes
    return shards


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
