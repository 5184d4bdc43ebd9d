"""A folder that is no checkpoint says what it is instead, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from skipstone import load
from skipstone.errors import CheckpointError
from skipstone.models.folder import CONFIG, SINGLE
from skipstone.testing.checkpoint import write_checkpoint, write_json


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(directory, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def empty(directory: Path, *names: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name in names:
        (directory / name).write_bytes(b"")
    return directory


@pytest.mark.parametrize("base", ["GSAI-ML/LLaDA-8B-Instruct", None])
def test_an_adapter_names_its_base(tmp_path: Path, base: str | None) -> None:
    write_json(
        tmp_path / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": base}
    )
    empty(tmp_path, "adapter_model.safetensors", "tokenizer.json")
    message = refusal(tmp_path)
    assert "holds a PEFT LORA adapter" in message
    assert "merge_and_unload" in message
    assert (f"of {base!r}" in message) == (base is not None)


def test_a_merged_adapter_is_a_model(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA"})
    assert load(tmp_path, device="cpu").config.num_layers


@pytest.mark.parametrize("whole", [True, False], ids=["with config.json", "alone"])
@pytest.mark.parametrize(
    ("file", "fragment"),
    [
        ("model.Q4_K_M.gguf", "holds only GGUF weights (model.Q4_K_M.gguf)"),
        ("pytorch_model.bin", "holds only pickled weights (pytorch_model.bin)"),
        ("consolidated.00.pth", "holds only pickled weights"),
        ("model.pt", "holds only pickled weights"),
        ("model.onnx", "holds only ONNX weights"),
        ("tf_model.h5", "holds only TensorFlow weights"),
        ("flax_model.msgpack", "holds only Flax weights"),
    ],
)
def test_weights_of_other_formats(tmp_path: Path, file: str, fragment: str, whole: bool) -> None:
    if whole:
        write_checkpoint(tmp_path)
        (tmp_path / SINGLE).unlink()
    assert fragment in refusal(empty(tmp_path, file))


def test_a_tokenizer_alone(tmp_path: Path) -> None:
    message = refusal(empty(tmp_path, "tokenizer.json", "tokenizer_config.json"))
    assert "the folder holds a tokenizer and no model" in message


@pytest.mark.parametrize(
    "below", ["model", "snapshots/0123abcd", "models--a--b/snapshots/0123abcd"]
)
def test_a_folder_too_high_names_the_right_one(tmp_path: Path, below: str) -> None:
    write_checkpoint(tmp_path / below)
    message = refusal(tmp_path)
    assert f"but there is one in {below}: give that folder ({tmp_path / below})" in message


def test_a_folder_too_high_names_all_that_are_meant(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_checkpoint(tmp_path / name)
    assert "but there is one in a, b" in refusal(tmp_path)


def test_a_folder_too_deep_names_the_right_one(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    message = refusal(empty(tmp_path / "original"))
    assert f"but there is one in the folder above it: give {tmp_path.resolve()}" in message


def test_a_pipeline_of_diffusers(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "unet")
    assert "pipeline of the diffusers library" in refusal(empty(tmp_path, "model_index.json"))


def test_weights_under_another_name(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path)
    (directory / SINGLE).rename(directory / "consolidated.safetensors")
    message = refusal(directory)
    assert "holds consolidated.safetensors, but weights are read from model.safetensors" in message


def test_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path)
    (directory / SINGLE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "git lfs pull" in refusal(directory)


def test_no_weights_at_all(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path)
    (directory / SINGLE).unlink()
    assert "holds no weights" in refusal(directory)


def test_no_config_at_all(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path)
    (directory / CONFIG).unlink()
    assert "a model directory holds config.json" in refusal(directory)
