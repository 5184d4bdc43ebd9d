"""Tiny random models as checkpoints are published: what tests of loading open, and damage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor

from skipstone.errors import CheckpointError, nearest
from skipstone.models.architecture import Architecture
from skipstone.models.chat import HEADERS
from skipstone.models.example import VOCAB
from skipstone.models.fields import Fields
from skipstone.models.llada import LLADA
from skipstone.models.table import ARCHITECTURES
from skipstone.quoting import shown

SPECIAL = LLADA.example.special
BOS, EOS, START, END, EOT, MASK = SPECIAL.values()
WIDTH, HEADS, MLP_WIDTH, LAYERS = 16, 4, 24, 2
"""Of the tiny LLaDA."""

TEMPLATE = HEADERS
"""Its chat template."""

_OWN = "the architecture's own"
# What tables call them: the keys of LLaDA, and those of Llama.
_KV_HEADS = ("n_kv_heads", "num_key_value_heads")
_TIED = ("weight_tying", "tie_word_embeddings")


def config_fields(
    architecture: str = LLADA.name, *, kv_heads: int | None = None, tied: bool | None = None
) -> dict[str, object]:
    """What config.json holds; see ``write_checkpoint``.

    Raises:
        CheckpointError: there is no such architecture.
    """
    fields = dict(_entry(architecture).example.config)
    for keys, value in ((_KV_HEADS, kv_heads), (_TIED, tied)):
        if value is not None:
            fields |= {key: value for key in keys if key in fields}
    return fields


def random_weights(
    dtype: torch.dtype = torch.float32,
    *,
    architecture: str = LLADA.name,
    kv_heads: int | None = None,
    tied: bool | None = None,
) -> dict[str, Tensor]:
    """Every published tensor, each with values of its own; see ``write_checkpoint``.

    They are such that what is decoded varies with the prompt and the position.

    Raises:
        CheckpointError: there is no such architecture.
    """
    entry = _entry(architecture)
    # No shape depends on the mask, which some leave to the tokenizer.
    values = config_fields(architecture, kv_heads=kv_heads, tied=tied) | {"mask_token_id": 0}
    config = entry.read(Fields(Path("config.json"), values, entry.keys, entry.title))
    generator = torch.Generator().manual_seed(0)
    return {
        name: _random(name, shape, generator).to(dtype)
        for name, shape in entry.shapes(config).items()
    }


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        # Norms around 1 and biases around 0, but not at them, so that one left out shows.
        return 0.3 * values + (0.0 if name.endswith("bias") else 1.0)
    # Embedding and head are as wide as they come; products within layers spread their rows.
    return values if shape[0] == VOCAB else 3 * values / shape[-1] ** 0.5


def byte_tokenizer(special: Mapping[str, int] = SPECIAL) -> Tokenizer:
    """One token for each byte, and special tokens at their ids; bytes have those that are left."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    taken = frozenset(special.values())
    left = (token for token in range(len(alphabet) + len(special)) if token not in taken)
    tokenizer = Tokenizer(BPE(dict(zip(alphabet, left, strict=False)) | dict(special), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    return tokenizer


def _entry(architecture: str) -> Architecture:
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"architecture {shown(architecture)} is unknown; "
            f"{nearest(str(architecture), ARCHITECTURES)}"
        )
    return ARCHITECTURES[architecture]


def write_weights(directory: Path, weights: dict[str, Tensor], shards: int = 1) -> None:
    """Write one file, or ``shards`` files and their index."""
    if shards == 1:
        save_file(weights, directory / "model.safetensors")
        return
    names = sorted(weights)
    weight_map = dict[str, str]()
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[i::shards]}
        save_file(part, directory / file)
        weight_map |= dict.fromkeys(part, file)
    write_json(directory / "model.safetensors.index.json", {"weight_map": weight_map})


def write_json(path: Path, value: object) -> None:
    """Write one JSON value."""
    path.write_text(json.dumps(value), encoding="utf-8")


def write_checkpoint(
    directory: str | Path,
    *,
    architecture: str = LLADA.name,
    dtype: torch.dtype = torch.float32,
    tied: bool | None = None,
    kv_heads: int | None = None,
    shards: int = 1,
    template: object = _OWN,
    weights: dict[str, Tensor] | None = None,
    config: Mapping[str, object] | None = None,
) -> Path:
    """Write a tiny random model as a checkpoint is published, and return its directory.

    config.json, tokenizer.json (one token for each byte, and special ones), tokenizer_config.json
    with a chat template, generation_config.json where one is published, and safetensors files. All
    names are those of the published checkpoints. The model has two layers of width 16, four heads
    and 264 tokens.

    Args:
        directory: made if it does not exist.
        architecture: as ``architectures`` in config.json has it, one of ``skipstone models``.
        dtype: of the stored tensors.
        tied: no head of its own; None: as published.
        kv_heads: fewer than 4 for grouped queries; None: as published, one for each head or two.
        shards: how many safetensors files; several have an index.
        template: ``chat_template`` of tokenizer_config.json; None leaves it out. The published one
            unless it is given.
        weights: instead of random ones, by their published names; matrices are [out, in].
        config: fields of config.json to change; the weights stay as they are.

    Raises:
        CheckpointError: there is no such architecture.
        OSError: the directory cannot be written.
    """
    fields = config_fields(architecture, kv_heads=kv_heads, tied=tied) | dict(config or {})
    example, directory = _entry(architecture).example, Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", fields)
    byte_tokenizer(example.special).save(str(directory / "tokenizer.json"))
    chosen = example.template if template is _OWN else template
    settings = dict[str, object](example.named) | {"chat_template": chosen}
    write_json(
        directory / "tokenizer_config.json", {k: v for k, v in settings.items() if v is not None}
    )
    if example.generation:
        write_json(directory / "generation_config.json", example.generation)
    if weights is None:
        weights = random_weights(dtype, architecture=architecture, kv_heads=kv_heads, tied=tied)
    write_weights(directory, weights, shards)
    return directory
