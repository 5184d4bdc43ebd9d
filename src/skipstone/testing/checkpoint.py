"""A tiny random LLaDA as a checkpoint is published: what tests of loading open, and damage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor

# 256 bytes, then the special tokens, then ids that no token has, as in the published files.
BOS, EOS, START, END, EOT, MASK, VOCAB = 256, 257, 258, 259, 260, 261, 264
SPECIAL = {
    "<|startoftext|>": BOS,
    "<|endoftext|>": EOS,
    "<|start_header_id|>": START,
    "<|end_header_id|>": END,
    "<|eot_id|>": EOT,
    "<|mdm_mask|>": MASK,
}
TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim }}<|eot_id|>"
    "{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
WIDTH, HEADS, MLP_WIDTH, LAYERS = 16, 4, 24, 2


def config_fields(*, kv_heads: int = HEADS, tied: bool = False) -> dict[str, object]:
    """What config.json holds."""
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "block_type": "llama",
        "d_model": WIDTH,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "n_kv_heads": kv_heads,
        "mlp_hidden_size": MLP_WIDTH,
        "vocab_size": VOCAB,
        "embedding_size": VOCAB,
        "max_sequence_length": 128,
        "rope": True,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "layer_norm_type": "rms",
        "activation_type": "silu",
        "weight_tying": tied,
        "mask_token_id": MASK,
        "eos_token_id": EOS,
        "pad_token_id": EOS,
    }


def random_weights(
    dtype: torch.dtype = torch.float32, *, kv_heads: int = HEADS, tied: bool = False
) -> dict[str, Tensor]:
    """Every published tensor, each with values of its own."""
    kv = kv_heads * WIDTH // HEADS
    layer = {
        "attn_norm": (WIDTH,),
        "ff_norm": (WIDTH,),
        "q_proj": (WIDTH, WIDTH),
        "k_proj": (kv, WIDTH),
        "v_proj": (kv, WIDTH),
        "attn_out": (WIDTH, WIDTH),
        "ff_proj": (MLP_WIDTH, WIDTH),
        "up_proj": (MLP_WIDTH, WIDTH),
        "ff_out": (WIDTH, MLP_WIDTH),
    }
    shapes: dict[str, tuple[int, ...]] = {"wte": (VOCAB, WIDTH), "ln_f": (WIDTH,)}
    shapes |= {f"blocks.{i}.{name}": shape for i in range(LAYERS) for name, shape in layer.items()}
    if not tied:
        shapes["ff_out"] = (VOCAB, WIDTH)
    generator = torch.Generator().manual_seed(0)
    return {
        f"model.transformer.{name}.weight": torch.randn(shape, generator=generator).to(dtype)
        for name, shape in shapes.items()
    }


def byte_tokenizer(*, special: bool = True) -> Tokenizer:
    """One token for each byte, and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if special:
        tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    return tokenizer


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
    directory: Path,
    *,
    dtype: torch.dtype = torch.float32,
    tied: bool = False,
    kv_heads: int = HEADS,
    shards: int = 1,
    template: object = TEMPLATE,
    weights: dict[str, Tensor] | None = None,
    config: Mapping[str, object] | None = None,
) -> Path:
    """Write a random LLaDA as a checkpoint is published, and return its directory.

    config.json, tokenizer.json (one token for each byte, and six special ones),
    tokenizer_config.json with a chat template, and safetensors files. The model has two layers of
    width 16, four heads and 264 tokens.

    Args:
        directory: made if it does not exist.
        dtype: of the stored tensors.
        tied: no head of its own.
        kv_heads: fewer than 4 for grouped queries.
        shards: how many safetensors files; several have an index.
        template: ``chat_template`` of tokenizer_config.json; None leaves it out.
        weights: instead of random ones, by their published names; matrices are [out, in].
        config: fields of config.json to change.

    Raises:
        OSError: the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_json(
        directory / "config.json", config_fields(kv_heads=kv_heads, tied=tied) | dict(config or {})
    )
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    settings: dict[str, object] = {
        "bos_token": "<|startoftext|>",
        "eos_token": {"content": "<|endoftext|>", "special": True},
        "pad_token": "<|endoftext|>",
        "mask_token": "<|mdm_mask|>",
    }
    if template is not None:
        settings["chat_template"] = template
    write_json(directory / "tokenizer_config.json", settings)
    chosen = random_weights(dtype, kv_heads=kv_heads, tied=tied) if weights is None else weights
    write_weights(directory, chosen, shards)
    return directory
