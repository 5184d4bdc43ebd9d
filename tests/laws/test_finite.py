"""Law 14: a number that is not finite never becomes a token in silence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from skipstone import (
    CosineSkip,
    DualCache,
    Engine,
    Factor,
    Fixed,
    NoCache,
    NotFiniteError,
    PrefixCache,
    Recorder,
    Threshold,
    load,
)
from skipstone.canvas import StepContext
from skipstone.cli.main import run
from skipstone.engine import Settings
from skipstone.engine.score.likelihood import LikelihoodRequest, MonteCarlo, log_likelihoods
from skipstone.models.load import Model
from skipstone.models.parts.decoder import Decoder
from skipstone.models.parts.mlp import MLP
from skipstone.testing.checkpoint import random_weights, write_checkpoint
from skipstone.testing.tiny import tiny_model
from skipstone.unmask import Scores, UnmaskPolicy

BASE = Settings(gen_length=16, block_length=8)
FP16_REMEDY = "float16 reaches no further than 65504: choose dtype='bfloat16' or 'float32'"


def mlp_of(model: Model, index: int) -> MLP:
    assert isinstance(model.network, Decoder)
    mlp = model.network.layers[index].mlp
    assert isinstance(mlp, MLP)
    return mlp


def overflowing(layer: int, dtype: torch.dtype = torch.float16) -> Model:
    """Finite weights of which one layer makes more than float16 can hold."""
    model = tiny_model(dtype=dtype)
    mlp_of(model, layer - 1).gate_up.weight.mul_(100)
    mlp_of(model, layer - 1).down.weight.mul_(1000)
    assert all(weight.isfinite().all() for weight in model.network.published().values())
    return model


def refusal(model: Model, settings: Settings, *prompts: list[int], **how: Any) -> str:
    with pytest.raises(NotFiniteError) as caught:
        Engine(model, settings, **how).generate_batch(prompts or [[1, 2, 3]])
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


SETTINGS = {
    "no cache": BASE.replace(cache=NoCache()),
    "prefix": BASE.replace(cache=PrefixCache()),
    "dual": BASE.replace(cache=DualCache()),
    "fixed": BASE.replace(unmask=Fixed()),
    "random": BASE.replace(unmask=Fixed("random"), seed=1),
    "low threshold": BASE.replace(unmask=Threshold(0.05)),
    "factor": BASE.replace(unmask=Factor(1.0)),
    "skip": BASE.replace(skip=CosineSkip(2, 0.5, 0.0)),
    "temperature": BASE.replace(temperature=1.0, seed=1),
    "no early stop": BASE.replace(eos_stop=False, budget="stop"),
}


@pytest.mark.parametrize("runner", ["eager", "graph"])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_first_layer_that_overflows_is_named(name: str, runner: str) -> None:
    message = refusal(overflowing(3), SETTINGS[name], runner=runner)
    assert message.startswith("prompt 0, block 0, step 0: layer 3 of 4 is the first that is not")
    assert message.endswith(FP16_REMEDY)


@pytest.mark.parametrize("layer", [1, 2, 4])
def test_each_layer_is_named(layer: int) -> None:
    assert f"layer {layer} of 4 is the first" in refusal(overflowing(layer), BASE)


def test_the_same_weights_decode_where_they_fit() -> None:
    results = Engine(overflowing(3, torch.float32), BASE).generate([1, 2, 3])
    assert results.masks_left == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_broken_weights_in_memory_are_named(dtype: torch.dtype, value: float) -> None:
    model = tiny_model(dtype=dtype)
    mlp_of(model, 1).down.weight[3, 5] = value
    message = refusal(model, BASE)
    assert "layer 2 of 4 is the first" in message
    assert "the weight model.transformer.blocks.1.ff_out.weight holds NaN or infinite" in message


def test_a_broken_embedding_is_named_with_its_position() -> None:
    model = tiny_model(dtype=torch.float32)
    model.network.published()["model.transformer.wte.weight"][2, 0] = torch.nan
    assert "the embedding is not finite, at position 1" in refusal(model, BASE, [1, 2, 3])


def test_a_broken_head_is_named() -> None:
    model = tiny_model(dtype=torch.float32)
    model.network.published()["model.transformer.ff_out.weight"][7, 0] = torch.inf
    message = refusal(model, BASE)
    assert "all layers are finite, the logits are not" in message
    assert "the weight model.transformer.ff_out.weight" in message


def broken_token(token: int) -> Model:
    """A model that breaks for those requests alone that hold a token."""
    model = tiny_model(dtype=torch.float32)
    model.network.published()["model.transformer.wte.weight"][token] = torch.inf
    head = model.network.published()["model.transformer.ff_out.weight"]
    # It is never predicted by the others.
    head[token] = 0
    return model


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_a_batch_names_the_request(batch_size: int | None) -> None:
    prompts = [[1, 2], [3, 4, 5], [6, 61, 7], [8]]
    with pytest.raises(NotFiniteError, match=r"^prompt 2, block 0, step 0: "):
        Engine(broken_token(61), BASE).generate_batch(prompts, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [1, 2, 3, None])
def test_results_of_the_requests_that_were_finished_are_kept(batch_size: int | None) -> None:
    prompts = [[1, 2], [3, 4, 5], [8], [6, 61, 7]]
    engine = Engine(broken_token(61), BASE)
    with pytest.raises(NotFiniteError) as caught:
        engine.generate_batch(prompts, batch_size=batch_size)
    finished = caught.value.finished
    # One that breaks leaves the others alone.
    assert list(finished) == [0, 1, 2]
    assert str(caught.value).endswith(f"; {len(finished)} of 4 prompts were finished")
    for i, result in finished.items():
        alone = engine.generate(prompts[i])
        assert (result.tokens, result.text) == (alone.tokens, alone.text)
        assert result.stats.steps == alone.stats.steps


def test_a_request_that_ends_in_the_very_step_in_which_another_breaks_is_finished() -> None:
    engine = Engine(broken_token(61), BASE.replace(gen_length=8, unmask=Threshold(0.0)))
    with pytest.raises(NotFiniteError) as caught:
        engine.generate_batch([[1, 2], [61]])
    (result,) = caught.value.finished.values()
    assert result.tokens == engine.generate([1, 2]).tokens
    assert result.stats.num_forwards == 1


def test_requests_that_come_after_are_not_touched_by_the_error() -> None:
    engine = Engine(broken_token(61), BASE)
    alone = engine.generate([1, 2]).tokens
    with pytest.raises(NotFiniteError):
        engine.generate([61])
    assert engine.generate([1, 2]).tokens == alone


def test_an_observer_sees_the_steps_before_and_no_broken_one() -> None:
    recorder = Recorder()
    with pytest.raises(NotFiniteError):
        Engine(overflowing(3), BASE).generate([1, 2, 3], observer=recorder)
    assert not recorder.trace.records[0].steps


@dataclass(frozen=True)
class Sure(UnmaskPolicy):
    """A rule that would pass over NaN for ever: every comparison with it is false."""

    def select(self, scores: Scores, context: StepContext) -> Tensor:
        return scores.confidence_BG >= 0


def test_a_rule_that_passes_over_nan_does_not_hide_it() -> None:
    assert "layer 3 of 4" in refusal(overflowing(3), BASE.replace(unmask=Sure()))


# ---------------------------------------------------------------- likelihoods


QUESTIONS = [
    LikelihoodRequest((1, 2), (3, 4)),
    LikelihoodRequest((5, 6), (7, 61, 8)),
    LikelihoodRequest((9,), (10, 11)),
]


def test_likelihoods_name_the_question_and_the_layer() -> None:
    with pytest.raises(NotFiniteError, match=r"^question 0: layer 3 of 4 is the first"):
        list(log_likelihoods(overflowing(3), QUESTIONS[:1], MonteCarlo(mc_num=4)))
    with pytest.raises(NotFiniteError, match=r"^question 1: the embedding is not finite"):
        list(log_likelihoods(broken_token(61), QUESTIONS, MonteCarlo(mc_num=8), batch_size=3))


def test_the_mask_token_has_no_probability_and_breaks_nothing() -> None:
    model = tiny_model(dtype=torch.float32)
    answer = (model.config.mask_id, 3)
    ((_, score),) = log_likelihoods(model, [LikelihoodRequest((1,), answer)], MonteCarlo(mc_num=4))
    assert score == -torch.inf


# ---------------------------------------------------------------- the command line


def test_the_command_line_says_it_and_prints_no_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = random_weights()
    for name in ("ff_proj", "up_proj", "ff_out"):
        weights[f"model.transformer.blocks.1.{name}.weight"] *= 4000
    directory = str(write_checkpoint(tmp_path, weights=weights))
    argv = ["generate", "hello", "--model", directory, "--device", "cpu", "--gen-length", "8"]
    assert run([*argv, "--dtype", "float16"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"skipstone: error: prompt 0, block 0, step 0: layer 2 of 2 is the first that is not "
        f"finite, at position 0; {FP16_REMEDY}\n"
    )
    assert run(argv) == 0
    assert load(directory, device="cpu", dtype="float16").network.dtype == torch.float16


@pytest.mark.parametrize("command", ["generate", "trace"])
@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_line_prints_the_answers_that_were_finished(
    command: str,
    as_json: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pebble = load("pebble")
    embed, odd = pebble.network.embed, 57  # "Z"
    assert odd in pebble.text.encode("Zo")

    def broken(ids_N: Tensor) -> Tensor:
        return torch.where((ids_N == odd)[:, None], torch.nan, embed(ids_N))

    def loaded(name: str, *, device: str, dtype: str) -> Model:
        return pebble

    monkeypatch.setattr(pebble.network, "embed", broken)
    monkeypatch.setattr("skipstone.models.load.load", loaded)
    file = tmp_path / "prompts.txt"
    file.write_text("What is 3 + 4?\nWhat is 2 + 2?\nZo\n")
    argv = [command, "--batch-file", str(file), "--batch-size", "1", "--gen-length", "32"]
    argv += ["--json"] * as_json + ["-o", str(tmp_path / "t.trace")] * (command == "trace")
    assert run(argv) == 2
    captured = capsys.readouterr()
    assert "3 + 4 = 7." in captured.out
    assert "2 + 2 = 4." in captured.out
    assert ('"number": 2' if as_json else "[2] What is 2 + 2?") in captured.out
    assert "2 of 3 prompts were finished" in captured.err.splitlines()[-1]
