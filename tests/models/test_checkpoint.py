"""Published checkpoints: every weight lands in its place, and every fault is named on one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from skipstone.errors import CheckpointError, ConfigError
from skipstone.models import table
from skipstone.models.checkpoint import load_network, stored_dtype
from skipstone.models.config import read_config
from skipstone.models.folder import INDEX, find_shards
from skipstone.models.llada import LLADA
from skipstone.models.parts.decoder import Decoder
from skipstone.models.parts.mlp import MLP
from skipstone.testing.checkpoint import (
    EOS,
    LAYERS,
    MASK,
    VOCAB,
    WIDTH,
    config_fields,
    random_weights,
    write_checkpoint,
    write_json,
    write_weights,
)

CPU = torch.device("cpu")
ROOT = "model.transformer."


def _load(directory: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    network = load_network(directory, read_config(directory), dtype, CPU)
    assert isinstance(network, Decoder)
    return network


def _error(act: Callable[[], object], *fragments: str) -> str:
    """The message of a CheckpointError: one line with all fragments."""
    with pytest.raises(CheckpointError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message
    return message


# ---------------------------------------------------------------- what loads


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_every_weight_lands_in_its_place(tmp_path: Path, kv_heads: int) -> None:
    weights = random_weights(kv_heads=kv_heads)
    network = _load(write_checkpoint(tmp_path, kv_heads=kv_heads))

    def stored(name: str) -> Tensor:
        return weights[f"{ROOT}{name}.weight"]

    assert torch.equal(network.embedding, stored("wte"))
    assert torch.equal(network.norm.weight, stored("ln_f"))
    assert torch.equal(network.lm_head.weight, stored("ff_out"))
    for i in range(LAYERS):
        layer, block = network.layers[i], f"blocks.{i}."
        assert isinstance(layer.mlp, MLP)
        qkv = [stored(f"{block}{name}_proj") for name in "qkv"]
        assert torch.equal(layer.attention.qkv.weight, torch.cat(qkv))
        gate_up = [stored(f"{block}{name}_proj") for name in ("ff", "up")]
        assert torch.equal(layer.mlp.gate_up.weight, torch.cat(gate_up))
        assert torch.equal(layer.mlp.down.weight, stored(f"{block}ff_out"))
        assert torch.equal(layer.attention.out.weight, stored(f"{block}attn_out"))
        assert torch.equal(layer.attention_norm.weight, stored(f"{block}attn_norm"))
        assert torch.equal(layer.mlp_norm.weight, stored(f"{block}ff_norm"))


@pytest.mark.parametrize("shards", [2, 3, 7])
def test_shards_give_the_same_bits_as_one_file(tmp_path: Path, shards: int) -> None:
    single = _load(write_checkpoint(tmp_path / "one")).published()
    many = _load(write_checkpoint(tmp_path / "many", shards=shards)).published()
    assert single.keys() == many.keys()
    assert all(torch.equal(single[name], many[name]) for name in single)


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    network = _load(write_checkpoint(tmp_path, tied=True))
    assert network.lm_head.weight is network.embedding
    assert torch.equal(network.head(torch.eye(WIDTH)), network.embedding.T)


def test_a_head_of_its_own_is_not_the_embedding(tmp_path: Path) -> None:
    network = _load(write_checkpoint(tmp_path))
    assert not torch.equal(network.lm_head.weight, network.embedding)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_names_asked_for_are_the_names_of_the_network(
    tmp_path: Path, tied: bool, kv_heads: int
) -> None:
    network = _load(write_checkpoint(tmp_path, tied=tied, kv_heads=kv_heads))
    views = {name: tuple(view.shape) for name, view in network.published().items()}
    assert table.entry_of(network.config).shapes(network.config) == views


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("wanted", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_each_dtype_converts_to_each(
    tmp_path: Path, stored: torch.dtype, wanted: torch.dtype
) -> None:
    network = _load(write_checkpoint(tmp_path, dtype=stored), wanted)
    assert network.dtype == wanted
    for name, value in random_weights(stored).items():
        assert torch.equal(network.published()[name], value.to(wanted))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_stored_dtype_is_read_from_the_headers(tmp_path: Path, stored: torch.dtype) -> None:
    assert stored_dtype(write_checkpoint(tmp_path, dtype=stored, shards=2), LLADA.names) == stored


def test_null_in_the_config_means_left_open(tmp_path: Path) -> None:
    config = read_config(
        write_checkpoint(
            tmp_path, config=dict.fromkeys(["n_kv_heads", "embedding_size", "weight_tying"])
        )
    )
    assert (config.num_kv_heads, config.vocab_size, config.tied_head) == (4, VOCAB, False)


def test_the_embedding_may_have_more_rows_than_there_are_tokens(tmp_path: Path) -> None:
    config = read_config(
        write_checkpoint(tmp_path, config={"vocab_size": 262, "embedding_size": VOCAB})
    )
    assert config.vocab_size == VOCAB


def test_links_to_shards_are_followed_as_in_the_hub_cache(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "snapshot", shards=2)
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for shard in find_shards(directory):
        shard.rename(blobs / shard.name)
        shard.symlink_to(Path("..") / "blobs" / shard.name)
    assert _load(directory).dtype == torch.float32


# ---------------------------------------------------------------- names and shapes


def test_missing_extra_and_mis_shaped_tensors_are_listed_together(tmp_path: Path) -> None:
    weights = random_weights()
    del weights[f"{ROOT}ln_f.weight"]
    weights["model.transformer.wpe.weight"] = torch.zeros(3)
    weights[f"{ROOT}blocks.1.k_proj.weight"] = torch.zeros(8, 8)
    _error(
        lambda: _load(write_checkpoint(tmp_path, weights=weights)),
        f"{ROOT}ln_f.weight is missing",
        f"{ROOT}wpe.weight is not a tensor of this architecture",
        f"{ROOT}blocks.1.k_proj.weight has shape [8, 8], expected [16, 16]",
        str(tmp_path),
        "copy both from the same published checkpoint",
    )


def test_a_long_list_of_offenders_is_cut(tmp_path: Path) -> None:
    weights = {name: value for name, value in random_weights().items() if ".blocks.1." not in name}
    message = _error(
        lambda: _load(write_checkpoint(tmp_path, weights=weights)), "is missing", "and 1 more"
    )
    assert len(message) < 1000


@pytest.mark.parametrize("shards", [1, 3])
def test_a_tied_head_may_be_in_the_file_if_it_is_the_embedding(tmp_path: Path, shards: int) -> None:
    weights = random_weights()
    write_checkpoint(tmp_path, tied=True, weights=weights, shards=shards)
    _error(
        lambda: _load(tmp_path),
        f"{ROOT}ff_out.weight differs from {ROOT}wte.weight, though config.json says",
    )
    weights[f"{ROOT}ff_out.weight"] = weights[f"{ROOT}wte.weight"].clone()
    network = _load(write_checkpoint(tmp_path, tied=True, weights=weights, shards=shards))
    assert network.lm_head.weight is network.embedding
    assert f"{ROOT}ff_out.weight" not in network.published()
    weights[f"{ROOT}ff_out.weight"] = torch.zeros(3, 3)
    write_checkpoint(tmp_path, tied=True, weights=weights, shards=shards)
    _error(lambda: _load(tmp_path), f"{ROOT}ff_out.weight has shape [3, 3], expected")


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, shards=2)
    second = find_shards(directory)[1]
    save_file(random_weights(), second)
    _error(lambda: _load(directory), "is in both model-00001", second.name)


def test_absurd_sizes_in_the_config_are_refused_before_they_are_allocated(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, config={"n_layers": 10**7})
    _error(lambda: _load(directory), "21 tensors", "10000000 layers")
    write_checkpoint(tmp_path, config={"mlp_hidden_size": 10**7})
    _error(lambda: _load(directory), "has shape [24, 16], expected [10000000, 16]")
    for key in ("n_layers", "mlp_hidden_size", "d_model", "n_heads", "vocab_size"):
        write_checkpoint(tmp_path, config={key: 10**18})
        _error(lambda: _load(directory), f"{10**18}, must be", "and at most 16777216")
    write_checkpoint(tmp_path, config={"max_sequence_length": 10**12})
    _error(lambda: _load(directory), "max_sequence_length is 1000000000000", "at most 1048576")


def test_weights_that_do_not_fit_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Decoder:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 MiB")

    directory = write_checkpoint(tmp_path)
    monkeypatch.setattr("skipstone.models.table.build", full)
    with pytest.raises(ConfigError, match=r"do not fit on device 'cpu' as torch.float32.*smaller"):
        _load(directory)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_are_not_finite_are_found(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    weights = random_weights(dtype)
    for name in ("wte", "blocks.0.v_proj"):
        weights[f"{ROOT}{name}.weight"][-1, -1] = value
    _error(
        lambda: _load(write_checkpoint(tmp_path, weights=weights)),
        f"{ROOT}wte.weight has NaN or infinite values",
        f"{ROOT}blocks.0.v_proj.weight has NaN or infinite values",
    )


def test_values_that_overflow_the_wanted_dtype_are_found(tmp_path: Path) -> None:
    weights = random_weights()
    weights[f"{ROOT}ln_f.weight"][3] = 1e6
    directory = write_checkpoint(tmp_path, weights=weights)
    _error(
        lambda: _load(directory, torch.float16),
        f"{ROOT}ln_f.weight has values that overflow float16",
        "dtype='float32'",
    )
    assert _load(directory, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("stored", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_tensors_are_refused_whatever_dtype_is_asked_for(
    tmp_path: Path, stored: torch.dtype
) -> None:
    weights = random_weights()
    name = f"{ROOT}blocks.0.q_proj.weight"
    weights[name] = weights[name].to(stored)
    directory = write_checkpoint(tmp_path, weights=weights)
    for act in (lambda: _load(directory), lambda: stored_dtype(directory, LLADA.names)):
        _error(act, "1 tensors are stored as", name, "quantised")


def test_mixed_dtypes_need_a_choice(tmp_path: Path) -> None:
    weights = random_weights(torch.bfloat16)
    weights[f"{ROOT}ln_f.weight"] = weights[f"{ROOT}ln_f.weight"].float()
    directory = write_checkpoint(tmp_path, weights=weights)
    _error(
        lambda: stored_dtype(directory, LLADA.names),
        "mixed dtypes",
        "20 in BF16, 1 in F32",
        "dtype='float32'",
    )
    assert _load(directory, torch.float32).dtype == torch.float32


# ---------------------------------------------------------------- shards


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, -1])
def test_a_truncated_shard_is_named(tmp_path: Path, kept: float) -> None:
    directory = write_checkpoint(tmp_path, shards=3)
    shard = find_shards(directory)[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: int(len(content) * kept) if kept == 0.5 else int(kept)])
    for act in (lambda: _load(directory), lambda: stored_dtype(directory, LLADA.names)):
        _error(act, str(shard), "truncated or no safetensors file", "download it again")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, shards=3)
    find_shards(directory)[2].unlink()
    _error(lambda: _load(directory), "lacks 1 of 3 shards", "model-00003-of-00003.safetensors")


def test_a_shard_that_is_a_directory_is_missing(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, shards=2)
    shard = find_shards(directory)[0]
    shard.unlink()
    shard.mkdir()
    _error(lambda: _load(directory), "lacks 1 of 2 shards", shard.name)


@pytest.mark.parametrize(
    "name",
    ["../other.safetensors", "/etc/hostname", "sub/model.safetensors", "..", "pytorch_model.bin"],
)
def test_an_index_may_only_name_safetensors_beside_it(tmp_path: Path, name: str) -> None:
    directory = write_checkpoint(tmp_path / "model", shards=2)
    write_weights(tmp_path, random_weights())
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    write_json(directory / INDEX, {"weight_map": dict.fromkeys(random_weights(), name)})
    _error(lambda: _load(directory), f"names {name}", "in the same directory")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": 3}'])
def test_an_index_without_a_map_is_refused(tmp_path: Path, content: str) -> None:
    directory = write_checkpoint(tmp_path, shards=2)
    (directory / INDEX).write_text(content)
    _error(lambda: _load(directory), "has no weight_map")


def test_shards_without_their_index_are_named(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, shards=2)
    (directory / INDEX).unlink()
    _error(lambda: _load(directory), "holds shards (model-00001", f"no {INDEX}")


def test_a_directory_without_weights(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path)
    (directory / "model.safetensors").unlink()
    _error(lambda: _load(directory), "holds no weights")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickled_weights_are_never_opened(tmp_path: Path, name: str) -> None:
    directory = write_checkpoint(tmp_path)
    (directory / "model.safetensors").unlink()
    pickled = directory / name
    # Opening or loading this would run code; it is written so that both would leave a trace.
    pickled.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    opened = pickled.stat().st_atime_ns
    _error(lambda: _load(directory), "only pickled weights", name, "convert them to safetensors")
    assert not (tmp_path / "ran").exists()
    assert pickled.stat().st_atime_ns == opened


def test_no_tensors_at_all(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, weights={})
    _error(lambda: stored_dtype(directory, LLADA.names), "hold no tensors")
    _error(lambda: _load(directory), "0 tensors, too few")


# ---------------------------------------------------------------- config.json


@pytest.mark.parametrize(
    ("architecture", "model_type"),
    [
        ("LlavaLLaDAModelLM", "llada"),
        ("DreamModel", "dream"),
        ("LlamaForCausalLM", "llama"),
        ("LLaDA2MoeModelLM", "llada"),
        ("LLaDAModelLM", "dream"),
    ],
)
def test_other_architectures_are_refused_by_name(
    tmp_path: Path, architecture: str, model_type: str
) -> None:
    directory = write_checkpoint(
        tmp_path, config={"architectures": [architecture], "model_type": model_type}
    )
    _error(lambda: read_config(directory), repr(architecture), "not supported", "LLaDAModelLM")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_type", "sequential"),
        ("layer_norm_type", "low_precision"),
        ("activation_type", "gelu"),
        ("rope", False),
        ("alibi", True),
        ("include_bias", True),
        ("include_qkv_bias", True),
        ("attention_layer_norm", True),
        ("bias_for_layer_norm", True),
        ("input_emb_norm", True),
        ("scale_logits", True),
        ("block_group_size", 2),
        ("rope_full_precision", False),
        ("clip_qkv", 8.0),
    ],
)
def test_settings_that_are_not_implemented_are_refused(
    tmp_path: Path, key: str, value: object
) -> None:
    directory = write_checkpoint(tmp_path, config={key: value})
    _error(lambda: read_config(directory), "unsupported settings", f"{key}={value!r} (must be ")


def test_all_unsupported_settings_are_listed(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, config={"alibi": True, "rope": False})
    _error(lambda: read_config(directory), "rope=False", "alibi=True")


@pytest.mark.parametrize(
    "key",
    [
        "d_model",
        "n_layers",
        "n_heads",
        "mlp_hidden_size",
        "vocab_size",
        "max_sequence_length",
        "mask_token_id",
        "eos_token_id",
    ],
)
def test_absent_fields_are_named(tmp_path: Path, key: str) -> None:
    directory = write_checkpoint(tmp_path)
    fields = config_fields()
    del fields[key]
    write_json(directory / "config.json", fields)
    _error(lambda: read_config(directory), f"{key} is missing", "integer")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("d_model", "16"),
        ("d_model", 16.0),
        ("d_model", 0),
        ("n_layers", -1),
        ("n_layers", True),
        ("n_heads", [4]),
        ("n_kv_heads", 0),
        ("embedding_size", {}),
        ("mask_token_id", -1),
        ("rope_theta", "many"),
        ("rope_theta", -1),
        ("rope_theta", float("inf")),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", False),
        ("weight_tying", "false"),
        ("weight_tying", 1),
    ],
)
def test_fields_of_the_wrong_kind_are_named_with_value_and_rule(
    tmp_path: Path, key: str, value: object
) -> None:
    directory = write_checkpoint(tmp_path, config={key: value})
    _error(lambda: read_config(directory), f"{key} is {value!r}, must be ", "copy config.json")


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"n_heads": 3}, ["d_model 16", "n_heads 3"]),
        ({"n_heads": 16}, ["no even head width"]),
        ({"n_kv_heads": 3}, ["n_heads 4", "n_kv_heads 3"]),
        ({"mask_token_id": VOCAB}, [f"mask_token_id is {VOCAB}", "outside the vocabulary"]),
        ({"eos_token_id": 10**6}, ["eos_token_id is 1000000", "outside the vocabulary"]),
        ({"eos_token_id": MASK}, [f"both {MASK}", "must differ"]),
        ({"mask_token_id": EOS}, [f"both {EOS}", "must differ"]),
    ],
)
def test_fields_that_contradict_each_other(
    tmp_path: Path, changes: dict[str, object], fragments: list[str]
) -> None:
    directory = write_checkpoint(tmp_path, config=changes)
    _error(lambda: read_config(directory), *fragments)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b"3",
        b"null",
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
    ids=["empty", "cut", "binary", "list", "number", "null", "deep", "long number"],
)
def test_a_config_that_is_no_json_object(tmp_path: Path, content: bytes) -> None:
    directory = write_checkpoint(tmp_path)
    (directory / "config.json").write_bytes(content)
    _error(lambda: read_config(directory), str(directory / "config.json"), "download it again")


def test_a_config_that_is_missing_or_a_directory(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path)
    (directory / "config.json").unlink()
    _error(lambda: read_config(directory), "config.json does not exist", "tokenizer.json")
    (directory / "config.json").mkdir()
    _error(lambda: read_config(directory), "config.json cannot be read")


def test_the_helper_writes_json_that_we_read(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path)
    assert json.loads((directory / "config.json").read_text())["d_model"] == WIDTH
