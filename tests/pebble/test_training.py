"""Training: masks, batches, checkpoints and a tiny run from end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from pebble.batches import Batch, batch_size, plans, store
from pebble.checkpoint import read_shards
from pebble.masking import LATER_WEIGHT, draw_noise
from pebble.model import Pebble, Shape
from pebble.samples import BUCKETS, draw_samples
from pebble.schedule import affordable, learning_rate
from pebble.tokenizer import build_tokenizer
from pebble.train import parse, train

TINY = "--layers 2 --width 48 --heads 2 --hidden 96 --samples 300 --batch-tokens 1024 --workers 1"
LAYER_NAMES = (
    "attn_norm ff_norm q_proj k_proj v_proj attn_out ff_proj up_proj ff_out"  # nine a layer
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(problems=4_000)


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    """Training makes its tokenizer once for all runs, and is validated on a few problems."""

    def made(seed: int) -> Tokenizer:
        return tokenizer

    monkeypatch.setattr("pebble.train.build_tokenizer", made)
    monkeypatch.setattr("pebble.validation.PER_GROUP", 4)


def options(out: Path, more: str) -> list[str]:
    return ["--out", str(out), *TINY.split(), *more.split()]


def test_the_names_are_the_published_ones() -> None:
    names = set(Pebble(Shape(layers=2)).state_dict())
    expected = {
        f"model.transformer.blocks.{layer}.{name}.weight"
        for layer in range(2)
        for name in LAYER_NAMES.split()
    }
    outer = {f"model.transformer.{name}.weight" for name in ("wte", "ln_f", "ff_out")}
    assert names == expected | outer


def test_the_published_model_has_fifteen_million_parameters() -> None:
    with torch.device("meta"):
        count = sum(weight.numel() for weight in Pebble(Shape()).parameters())
    assert count == 14_954_688


def test_masks_spare_prompts_and_keep_the_expected_weight() -> None:
    size, length, prompt = 4096, 128, 30
    prompt_B = torch.full((size,), prompt)
    batch = Batch(torch.zeros(size, length, dtype=torch.long), prompt_B, prompt_B + 20)
    noise = draw_noise(batch, torch.Generator().manual_seed(0))
    assert not noise.masked_BL[:, :prompt].any()
    assert noise.masked_BL[:, prompt:].any(dim=1).float().mean() > 0.98
    assert (noise.weight_BL[~noise.masked_BL] == 0).all()
    assert noise.weight_BL[noise.masked_BL].min() >= LATER_WEIGHT
    # Weighted by one over the ratio, the hidden tokens stand for all tokens of their region.
    assert noise.weight_BL.sum().item() == pytest.approx(noise.tokens.item(), rel=0.05)


def test_batches_have_one_length_and_contain_the_answer(tokenizer: Tokenizer) -> None:
    samples = draw_samples(tokenizer, 600, seed=1, workers=1)
    data = store(samples, torch.device("cpu"))
    stream = plans(samples, 2048, seed=3, first=0)
    some = [next(stream) for _ in range(40)]
    for plan in some:
        batch = data.batch(plan)
        assert plan.length in BUCKETS
        assert batch.tokens_BL.shape == (batch_size(2048, plan.length), plan.length)
        assert (batch.prompt_B + batch.answer_B < plan.length).all()
    later = next(plans(samples, 2048, seed=3, first=25))
    assert np.array_equal(later.rows_B, some[25].rows_B)


def test_samples_do_not_depend_on_the_number_of_workers(tokenizer: Tokenizer) -> None:
    alone = draw_samples(tokenizer, 5_200, seed=1, workers=1)
    together = draw_samples(tokenizer, 5_200, seed=1, workers=2)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_the_schedule_rises_and_falls() -> None:
    rates = [learning_rate(1.0, step, 1000) for step in range(1000)]
    assert max(rates) == pytest.approx(1.0)
    assert rates[0] < 0.02
    assert rates[-1] < 0.01
    assert affordable(60, 120.0, 0.5) == 260


@pytest.mark.usefixtures("quickly")
def test_a_tiny_run_saves_resumes_and_reloads(tmp_path: Path) -> None:
    train(parse(options(tmp_path / "whole", "--steps 12")))
    train(parse(options(tmp_path / "half", "--steps 12 --checkpoint-every 6")))
    resumed = f"--resume {tmp_path / 'half' / 'checkpoint'}"
    first = json.loads((tmp_path / "half" / "checkpoint" / "progress.json").read_text())
    assert first == {"step": 12, "total": 12}
    train(parse(options(tmp_path / "again", resumed)))
    whole = read_shards(tmp_path / "whole", "model")
    again = read_shards(tmp_path / "again", "model")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert all(tensor.dtype == torch.bfloat16 for tensor in whole.values())
    fresh = Pebble(Shape(48, 2, 2, 96))
    fresh.load_state_dict({name: tensor.float() for name, tensor in whole.items()})
    index = json.loads((tmp_path / "whole" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == whole.keys()


@pytest.mark.usefixtures("quickly")
def test_a_paused_run_ends_where_a_whole_one_does(tmp_path: Path) -> None:
    train(parse(options(tmp_path / "whole", "--steps 4")))
    train(parse(options(tmp_path / "half", "--steps 4 --pause-minutes 0.00001")))
    assert not (tmp_path / "half" / "config.json").exists()
    resumed = f"--resume {tmp_path / 'half' / 'checkpoint'}"
    train(parse(options(tmp_path / "half", resumed)))
    whole, half = (read_shards(tmp_path / name, "model") for name in ("whole", "half"))
    assert all(torch.equal(whole[name], half[name]) for name in whole)


def test_a_run_can_start_from_a_finished_model(tmp_path: Path) -> None:
    train(parse(options(tmp_path / "first", "--steps 2")))
    start = f"--start-from {tmp_path / 'first'} --seed 1"
    train(parse(options(tmp_path / "second", f"{start} --steps 0")))
    train(parse(options(tmp_path / "third", f"{start} --steps 2")))
    first, second, third = (
        read_shards(tmp_path / name, "model") for name in ("first", "second", "third")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)
    texts = {(tmp_path / name / "tokenizer.json").read_bytes() for name in ("first", "third")}
    assert len(texts) == 1
