"""Training by several processes: what torchrun starts ends at the weights that one computes."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from pebble.batches import plans, store
from pebble.checkpoint import read_shards, save_model
from pebble.model import Pebble
from pebble.ranks import Ranks
from pebble.samples import draw_samples
from pebble.tokenizer import build_tokenizer
from pebble.train import Journal, Options, Trainer, make_optimizer, parse
from tests.conftest import ROOT

STEPS, SIZE = 3, 2
# The pause never comes; the ranks have to agree on that after each step.
TINY = (
    "--layers 1 --width 32 --heads 2 --hidden 64 --samples 200 --batch-tokens 1024 --workers 1 "
    f"--steps {STEPS} --checkpoint-every {STEPS} --pause-minutes 1000"
)


def test_two_ranks_end_at_the_weights_of_one_process_with_both_batches(tmp_path: Path) -> None:
    start, out = tmp_path / "start", tmp_path / "out"
    arguments = [*TINY.split(), "--start-from", str(start), "--out", str(out)]
    options = parse(arguments)
    torch.manual_seed(7)
    model, tokenizer = Pebble(options.shape), build_tokenizer(problems=4_000)
    save_model(model, tokenizer, start, options.shard_mb)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={SIZE}"]
    subprocess.run(
        [sys.executable, *torchrun, "-m", "pebble.train", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        timeout=300,
    )
    trained = read_shards(out / "checkpoint", "weights")
    model.load_state_dict(read_shards(start, "model"))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    by_one_process(model, tokenizer, options)
    assert trained.keys() == before.keys()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(trained[name], weight, rtol=0, atol=1e-6)
        # A step moves a weight by about its rate, which lies far above the tolerance.
        assert (weight - before[name]).abs().max() > 1e-3


def by_one_process(model: Pebble, tokenizer: Tokenizer, options: Options) -> None:
    """Take the steps with the mean of what each rank's batch asks for, in one model."""
    device = torch.device("cpu")
    optimizer = make_optimizer(model, options, device)
    journal = Journal(options.out / "unused.jsonl", time.monotonic(), silent=True)
    alone = Trainer(options, device, tokenizer, model, optimizer, journal, Ranks())
    ranks = [replace(alone, ranks=Ranks(rank, SIZE)) for rank in range(SIZE)]
    seeds = [options.seed + 1000 * rank for rank in range(SIZE)]
    drawn = [draw_samples(tokenizer, options.samples, seed, workers=1) for seed in seeds]
    streams = [plans(own, options.batch_tokens, options.seed, first=0) for own in drawn]
    for step in range(STEPS):
        for rank, samples, stream in zip(ranks, drawn, streams, strict=True):
            rank.backward(store(samples, device).batch(next(stream)), step)
        for weight in model.parameters():
            assert weight.grad is not None
            weight.grad /= SIZE
        alone.update(step, STEPS)
