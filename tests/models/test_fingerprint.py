"""The fingerprint of weights covers every value, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skipstone import load
from skipstone.models.fingerprint import fingerprint
from skipstone.models.load import Model
from skipstone.record.weights import same_weights
from skipstone.testing.checkpoint import random_weights, write_checkpoint
from skipstone.testing.tiny import tiny_model


def of_weights(directory: Path, weights: dict[str, torch.Tensor], shards: int = 1) -> str:
    return load(
        write_checkpoint(directory, weights=weights, shards=shards), device="cpu"
    ).fingerprint


@pytest.mark.parametrize("name", sorted(random_weights()))
def test_each_value_of_each_weight_counts(name: str) -> None:
    weights = {n: w.clone() for n, w in random_weights().items()}
    plain = fingerprint(weights)
    flat = weights[name].view(-1)
    for at in {0, 1, 255, 256, 257, flat.numel() // 2, flat.numel() - 1}:
        if at < flat.numel():
            flat[at] *= -1
            assert fingerprint(weights) != plain
            flat[at] *= -1
    assert fingerprint(weights) == plain


def test_the_signs_of_all_values_that_a_sample_would_miss() -> None:
    plain, flipped = load("pebble", device="cpu"), load("pebble", device="cpu")
    for weight in flipped.network.published().values():
        flat = weight.view(-1)
        stride = max(1, flat.numel() // 256)
        kept = flat[::stride].clone()
        flat.mul_(-1)
        flat[::stride] = kept
    assert plain.fingerprint != flipped.fingerprint


def test_two_values_that_change_places_show() -> None:
    weights = random_weights()
    plain = fingerprint(weights)
    flat = weights["model.transformer.wte.weight"].view(-1)
    flat[[7, 900]] = flat[[900, 7]]
    assert fingerprint(weights) != plain


def test_the_smallest_change_shows() -> None:
    weights = random_weights()
    plain = fingerprint(weights)
    flat = weights["model.transformer.wte.weight"].view(-1)
    flat[7] = torch.nextafter(flat[7], torch.tensor(torch.inf))
    assert fingerprint(weights) != plain
    zero = {"w": torch.zeros(3)}
    assert fingerprint(zero) != fingerprint({"w": -torch.zeros(3)})


def test_names_and_shapes_count() -> None:
    values = torch.arange(6.0)
    prints = {
        fingerprint({"a": values}),
        fingerprint({"b": values}),
        fingerprint({"a": values.view(2, 3)}),
        fingerprint({"a": values.view(3, 2)}),
        fingerprint({"a": values[:3], "b": values[3:]}),
    }
    assert len(prints) == 5


@pytest.mark.parametrize("shards", [2, 3, 7])
def test_shards_and_order_do_not_count(tmp_path: Path, shards: int) -> None:
    weights = random_weights()
    plain = of_weights(tmp_path / "one", weights)
    assert of_weights(tmp_path / "many", dict(reversed(weights.items())), shards) == plain


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_every_dtype_that_holds_the_values_gives_the_same(
    tmp_path: Path, stored: torch.dtype
) -> None:
    directory = write_checkpoint(tmp_path, dtype=stored)
    wide = {load(directory, device="cpu", dtype=d).fingerprint for d in (stored, "fp32", "fp64")}
    assert len(wide) == 1


def test_values_that_were_rounded_are_others(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path)
    exact, rounded = (load(directory, device="cpu", dtype=d) for d in ("float32", "bfloat16"))
    assert exact.fingerprint != rounded.fingerprint


def test_pieces_make_no_difference_to_what_is_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipstone.models.fingerprint._PIECE", 100)
    weights = random_weights()
    plain = fingerprint(weights)
    weights["model.transformer.wte.weight"].view(-1)[-1] *= -1
    assert fingerprint(weights) != plain


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_process_that_was_forked_from_one_with_many_threads_has_the_same() -> None:
    """Without care, half of such processes end in torch's "Invalid thread pool!"."""
    code = """
        import os, torch
        from skipstone.models.fingerprint import fingerprint
        torch.set_num_threads(16)
        torch.get_num_threads()  # as the first computation does
        weights = {f"w{i}": torch.ones(64, 64) for i in range(20)}
        plain = fingerprint(weights)
        for _ in range(10):
            if (pid := os.fork()) == 0:
                os._exit(fingerprint(weights) != plain)
            assert os.waitpid(pid, 0)[1] == 0
    """
    # A process of its own: this one has threads that no fork may lose.
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)


def test_a_network_without_files_has_one_too() -> None:
    assert tiny_model(1).fingerprint == tiny_model(1).fingerprint
    assert tiny_model(1).fingerprint != tiny_model(2).fingerprint


def test_it_is_computed_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()

    def count(weights: object) -> str:
        asked.append(1)
        return "0" * 16

    monkeypatch.setattr("skipstone.models.load.fingerprint", count)
    model: Model = replace(tiny_model(1))
    assert not asked
    assert model.fingerprint == model.fingerprint
    assert asked == [1]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("0123456789abcdef", "0123456789abcdef", True),
        ("0123456789abcdef", "0123456789abcde0", False),
        ("01234567", "01234567", True),
        ("01234567", "01234568", False),
        ("01234567", "0123456789abcdef", None),
        ("0123456789abcdef", "01234567", None),
        ("", "01234567", None),
        ("00ff", "something else", False),
    ],
)
def test_fingerprints_of_older_versions_are_not_held_against_new_ones(
    a: str, b: str, same: bool | None
) -> None:
    assert same_weights(a, b) is same
