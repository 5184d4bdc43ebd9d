"""Loading by name: directories, the local hub cache, no network, devices and dtypes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from skipstone import Engine, load
from skipstone.errors import CheckpointError, ConfigError, SkipstoneError
from skipstone.models.folder import INDEX
from skipstone.testing.checkpoint import MASK, VOCAB, random_weights, write_checkpoint
from tests.conftest import ROOT
from tests.helpers.busy import busy_seconds

HUB_NAME = "some-org/some-model"
REVISION = "0123456789abcdef0123456789abcdef01234567"


def _message(act: Callable[[], object], kind: type[SkipstoneError] = CheckpointError) -> str:
    """The message of an error: one line, within five seconds of the processor."""
    started = busy_seconds()
    with pytest.raises(kind) as caught:
        act()
    assert busy_seconds() - started < 5
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sound checkpoint, bf16 in two shards."""
    return write_checkpoint(
        tmp_path_factory.mktemp("sound") / "model", dtype=torch.bfloat16, shards=2
    )


# ---------------------------------------------------------------- directories


def test_a_directory_may_be_text_or_a_path(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    monkeypatch.chdir(checkpoint.parent)
    for where in (str(checkpoint), checkpoint, "model", Path("model"), "./model/", "~/model"):
        model = load(where, device="cpu")
        assert model.config.mask_id == MASK
        assert model.name == str(where)


def test_a_directory_wins_over_a_hub_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some-org").mkdir()
    (tmp_path / HUB_NAME).symlink_to(checkpoint)
    assert load(HUB_NAME, device="cpu").config.mask_id == MASK


def test_a_loaded_model_decodes(checkpoint: Path) -> None:
    result = Engine(load(checkpoint, device="cpu"), gen_length=8).generate("hello")
    assert len(result.tokens) == 8
    assert MASK not in result.tokens


@pytest.mark.parametrize(
    "name",
    ["", "nowhere", "./nowhere", "/no/where", "~/nowhere", "~nobody-of-this-name/x", "a/b/c"],
)
def test_names_of_nothing(name: str) -> None:
    message = _message(lambda: load(name))
    assert repr(name) in message
    assert "use 'pebble', a directory, or a hub name" in message


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "x/" * 3000])
def test_names_that_the_system_refuses(name: str) -> None:
    assert "use 'pebble', a directory, or a hub name" in _message(lambda: load(name))


def test_a_path_is_never_a_hub_name() -> None:
    assert "it is no directory" in _message(lambda: load(Path("some-org/nowhere")))


def test_a_file_is_not_a_directory(checkpoint: Path) -> None:
    message = _message(lambda: load(checkpoint / "config.json"))
    assert "is a file; give the directory that holds config.json" in message


def test_an_empty_directory(tmp_path: Path) -> None:
    assert "config.json does not exist" in _message(lambda: load(tmp_path))


# ---------------------------------------------------------------- the local hub cache


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache; the client reads its environment at import, so its constants are set."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def _fill(cache: Path) -> Path:
    """Lay out one model as the hub client does: blobs, links in a snapshot, a ref."""
    home = cache / f"models--{HUB_NAME.replace('/', '--')}"
    snapshot = write_checkpoint(home / "snapshots" / REVISION, shards=2)
    (home / "blobs").mkdir()
    for i, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(home / "blobs" / f"{i:040x}")
        file.symlink_to(Path("../../blobs") / f"{i:040x}")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(REVISION)
    return snapshot


def test_a_hub_name_is_found_in_the_local_cache(hub_cache: Path) -> None:
    _fill(hub_cache)
    model = load(HUB_NAME, device="cpu")
    assert model.name == HUB_NAME
    embedded = model.network.embed(torch.arange(VOCAB))
    assert torch.equal(embedded, random_weights()["model.transformer.wte.weight"])


def test_an_incomplete_cache_names_the_command(hub_cache: Path) -> None:
    next(_fill(hub_cache).glob("model-00002*")).unlink()
    message = _message(lambda: load(HUB_NAME))
    assert "incomplete in the local hub cache" in message
    assert message.endswith(f"run: hf download {HUB_NAME}")


def test_a_cache_without_weights_names_the_command(hub_cache: Path) -> None:
    snapshot = _fill(hub_cache)
    for file in [*snapshot.glob("*.safetensors"), snapshot / INDEX]:
        file.unlink()
    assert f"hf download {HUB_NAME}" in _message(lambda: load(HUB_NAME))


def test_absent_and_offline_names_the_command(hub_cache: Path) -> None:
    message = _message(lambda: load(HUB_NAME))
    assert f"model {HUB_NAME!r} is no directory, not in the local hub cache" in message
    assert message.endswith(f"run: hf download {HUB_NAME}")


@pytest.mark.parametrize("name", ["a b/c", "org/-x-", "org/x..y", "org/" + "x" * 200])
def test_names_that_no_hub_model_can_have(hub_cache: Path, name: str) -> None:
    message = _message(lambda: load(name))
    assert "neither a directory nor a hub name" in message
    assert "write 'organisation/model'" in message


def test_local_files_only_finds_what_is_in_the_cache_and_asks_nobody_else(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def connect(*args: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    message = _message(lambda: load(HUB_NAME, local_files_only=True))
    assert "not in the local hub cache" in message
    assert message.endswith(f"run: hf download {HUB_NAME}")
    _fill(hub_cache)
    assert load(HUB_NAME, device="cpu", local_files_only=True).name == HUB_NAME


def _load_alone(tmp_path: Path, **environment: str) -> tuple[str, float]:
    """Load an absent hub name in a process of its own; the message and the seconds it waited.

    Those in which it computes, or waits for a busy machine to let it, are none of them.
    """
    code = (
        "import skipstone, huggingface_hub\n"
        "from skipstone import CheckpointError, load\n"
        "from tests.helpers.busy import waiting_seconds\n"
        "started = waiting_seconds()\n"
        "try:\n"
        f"    load({HUB_NAME!r})\n"
        "except CheckpointError as error:\n"
        "    print(waiting_seconds() - started, error)\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | {"HF_HOME": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=True,
    )
    seconds, _, message = done.stdout.strip().partition(" ")
    assert "\n" not in message
    return message, float(seconds)


def test_offline_by_the_environment(tmp_path: Path) -> None:
    message, seconds = _load_alone(tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in message
    assert message.endswith(f"run: hf download {HUB_NAME}")
    assert seconds < 5


def test_a_network_that_refuses(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        message, seconds = _load_alone(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert message.endswith(f"run: hf download {HUB_NAME}")
    assert seconds < 5


def test_a_network_that_never_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        message, seconds = _load_alone(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert "does not answer within 3 s" in message
    assert message.endswith(f"run: hf download {HUB_NAME}")
    assert seconds < 5


# ---------------------------------------------------------------- device and dtype


def test_auto_is_float32_on_a_cpu(checkpoint: Path) -> None:
    assert load(checkpoint, device="cpu").network.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_a_dtype_by_name(checkpoint: Path, dtype: str) -> None:
    model = load(checkpoint, device="cpu", dtype=dtype)
    assert model.network.dtype == getattr(torch, dtype)


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        (("bf16", "torch.bfloat16", torch.bfloat16), torch.bfloat16),
        (("fp16", "half", "torch.half", torch.half), torch.float16),
        (("fp32", "float", "single", torch.float32), torch.float32),
        (("fp64", "double", torch.double), torch.float64),
    ],
)
def test_a_dtype_by_its_other_names(
    checkpoint: Path, names: tuple[str | torch.dtype, ...], meant: torch.dtype
) -> None:
    for name in names:
        assert load(checkpoint, device="cpu", dtype=name).network.dtype == meant


def test_a_device_may_be_torchs_own(checkpoint: Path) -> None:
    assert load(checkpoint, device=torch.device("cpu")).network.device.type == "cpu"
    assert "'meta' holds no values" in _message(
        lambda: load(checkpoint, device=torch.device("meta")), ConfigError
    )


@pytest.mark.parametrize("wrong", [0, None, torch.float32, b"cpu", "x" * 5000])
def test_a_device_is_a_device(checkpoint: Path, wrong: Any) -> None:
    message = _message(lambda: load(checkpoint, device=wrong), ConfigError)
    assert "cannot be used here" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("dtype", "rule"),
    [
        ("bflot16", "did you mean 'bfloat16'?"),
        ("float31", "did you mean 'float32'?"),
        ("", "known: auto, bfloat16"),
        ("int8", "known: auto, bf16"),
        (torch.int8, "known: auto, bf16"),
        (torch.complex64, "is unknown"),
        (None, "known: auto, bfloat16"),
        (16, "known: auto, bfloat16"),
        ("x" * 5000, "known: auto, bf16"),
    ],
)
def test_unknown_dtypes(checkpoint: Path, dtype: Any, rule: str) -> None:
    message = _message(lambda: load(checkpoint, dtype=dtype), ConfigError)
    assert f"dtype {dtype!r}"[:60] in message
    assert len(message) < 300
    assert rule in message


@pytest.mark.parametrize(
    "device",
    ["", "gpu", "CPU", "cuda:99", "cuda:-1", "cpu:x", "xla", "hpu", "privateuseone", "mtia", "0"],
)
def test_unknown_devices(checkpoint: Path, device: str) -> None:
    message = _message(lambda: load(checkpoint, device=device), ConfigError)
    assert f"device {device!r} cannot be used here" in message
    assert "use 'cpu' or 'auto'" in message


def test_a_device_without_values(checkpoint: Path) -> None:
    assert "holds no values" in _message(lambda: load(checkpoint, device="meta"), ConfigError)


def test_device_and_dtype_are_checked_before_the_model_is_looked_for() -> None:
    assert "dtype 'x'" in _message(lambda: load("nowhere", dtype="x"), ConfigError)
    assert "device 'x'" in _message(lambda: load("nowhere", device="x"), ConfigError)


# ---------------------------------------------------------------- repr


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float64"])
def test_the_repr_loads_the_same_model(checkpoint: Path, dtype: str) -> None:
    model = load(checkpoint, device="cpu", dtype=dtype)
    again = eval(repr(model), {"load": load})
    assert repr(again) == repr(model)
    assert again.network.dtype == model.network.dtype


def test_the_repr_survives_a_name_with_quotes(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / 'it\'s "mine" \\')
    model = load(directory, device="cpu")
    assert repr(eval(repr(model), {"load": load})) == repr(model)
