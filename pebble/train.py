"""Trains pebble as a masked diffusion model: `python -m pebble.train --out DIR`."""

import argparse
import json
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.optim import AdamW

from pebble.batches import Batch, batch_size, plans, store
from pebble.checkpoint import (
    Progress,
    load_training,
    read_shards,
    save_model,
    save_training,
)
from pebble.masking import draw_noise, masked_loss
from pebble.model import Pebble, Shape
from pebble.ranks import Ranks
from pebble.samples import BUCKETS, Samples, draw_samples
from pebble.schedule import affordable, learning_rate
from pebble.tokenizer import VOCAB_SIZE, build_tokenizer
from pebble.validation import Validator

LOG_EVERY = 50
VALIDATE_EVERY = 250
# The pace is first measured after this many steps, and then checked again at every log line.
PACE_STEPS = 60
CLIP = 1.0


@dataclass(frozen=True)
class Options:
    """What the command line can set; the defaults train the published model."""

    out: Path
    resume: Path | None = None
    start_from: Path | None = None
    steps: int = 2400
    max_minutes: float = 0.0
    pause_minutes: float = 0.0
    checkpoint_every: int = 0
    samples: int = 800_000
    seed: int = 0
    batch_tokens: int = 196_608
    peak_rate: float = 2e-3
    weight_decay: float = 0.1
    shard_mb: float = 15.0
    workers: int = os.cpu_count() or 1
    layers: int = Shape.layers
    width: int = Shape.width
    heads: int = Shape.heads
    hidden: int = Shape.hidden

    @property
    def shape(self) -> Shape:
        """The sizes of the network."""
        return Shape(self.width, self.heads, self.layers, self.hidden, VOCAB_SIZE)


HELP = {
    "out": "folder of the finished model, the log and the checkpoints",
    "resume": "folder of a checkpoint to go on from",
    "start_from": "folder of a finished model whose weights and tokenizer a new run starts from; "
    "name it again to resume such a run",
    "steps": "optimizer steps",
    "max_minutes": "finish within this time from the start, with fewer steps if need be; 0: never",
    "pause_minutes": "write a checkpoint and stop after this time; 0: never",
    "checkpoint_every": "write a checkpoint every so many steps; 0: never",
    "samples": "samples of each process",
    "batch_tokens": "tokens of a batch of each process, whatever the length of its canvases",
    "shard_mb": "largest size of a file, in millions of bytes",
}


class Journal:
    """Prints what happens and keeps the figures as lines of JSON."""

    def __init__(self, file: Path, started: float, *, silent: bool = False) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        self.started = started
        self.silent = silent

    @property
    def seconds(self) -> float:
        """Time since the program started."""
        return time.monotonic() - self.started

    def say(self, message: str) -> None:
        """Print one line with the time."""
        if not self.silent:
            print(f"[{self.seconds:7.1f} s] {message}", flush=True)

    def note(self, step: int, **figures: float) -> None:
        """Print the figures of a step and add them to the file."""
        if self.silent:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.say(f"step {step}  {text}")
        row = {"step": step, "seconds": round(self.seconds, 1), **figures}
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")


@dataclass(frozen=True)
class Trainer:
    """The parts of a run that stay the same from step to step."""

    options: Options
    device: torch.device
    tokenizer: Tokenizer
    model: Pebble
    optimizer: AdamW
    journal: Journal
    ranks: Ranks

    def precision(self) -> AbstractContextManager[object]:
        """Compute in bf16 on a GPU; the weights themselves stay in fp32."""
        if self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def backward(self, batch: Batch, step: int) -> torch.Tensor:
        """Compute one loss and its gradients; the masks depend on seed and step alone."""
        generator = torch.Generator(self.device)
        generator.manual_seed(self.options.seed * 1_000_003 + step + self.ranks.rank * 10**12)
        noise = draw_noise(batch, generator)
        with self.precision():
            loss = masked_loss(self.model, batch, noise)
        loss.backward()
        return loss.detach()

    def update(self, step: int, total: int) -> None:
        """Change the weights by the gradients, and clear these."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.options.peak_rate, step, total)
        self.ranks.average_gradients(self.model)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def warm_up(self) -> None:
        """Compile every length of batch before the clock of the steps runs."""
        if self.device.type != "cuda":
            return
        # Each length, with and without gradients, is a graph of its own.
        torch._dynamo.config.recompile_limit = 64
        self.model.compile_blocks()
        for length in BUCKETS:
            size = batch_size(self.options.batch_tokens, length)
            tokens_BL = torch.zeros(size, length, dtype=torch.long, device=self.device)
            prompt_B = torch.full((size,), 24, device=self.device)
            self.backward(Batch(tokens_BL, prompt_B, prompt_B), step=0)
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        self.journal.say(f"compiled for lengths {BUCKETS}")

    def checkpoint(self, step: int, total: int) -> None:
        """Write all that is needed to resume."""
        if not self.ranks.leads:
            return
        folder = self.options.out / "checkpoint"
        save_training(
            self.model, self.optimizer, Progress(step, total), folder, self.options.shard_mb
        )
        self.journal.say(f"wrote a checkpoint at step {step} to {folder}")

    def run(self, samples: Samples, progress: Progress) -> bool:
        """Train to the end, or pause; tells whether the end was reached."""
        options, journal = self.options, self.journal
        data = store(samples, self.device)
        validator = Validator.of(self.tokenizer, options.seed, self.device)
        self.warm_up()
        begun, total = journal.seconds, progress.total
        step = progress.step
        for plan in plans(samples, options.batch_tokens, options.seed, first=step):
            if step >= total:
                break
            loss = self.backward(data.batch(plan), step)
            self.update(step, total)
            step += 1
            done = step - progress.step
            if step % LOG_EVERY == 0 or done == PACE_STEPS:
                # Reading the loss waits for the GPU, so the pace below is a true one.
                value = loss.item()
                pace = (journal.seconds - begun) / done
                if done >= PACE_STEPS:
                    total = self.ranks.agree(self._within_budget(step, total, pace))
                journal.note(
                    step,
                    loss=value,
                    tokens_per_s=options.batch_tokens * self.ranks.size / pace,
                    minutes_to_go=(total - step) * pace / 60,
                )
            if step % VALIDATE_EVERY == 0 or step == total:
                with self.precision():
                    journal.note(step, **validator.accuracy(self.model))
            if options.pause_minutes and self._pauses():
                self.checkpoint(step, total)
                return step >= total
            if options.checkpoint_every and step % options.checkpoint_every == 0:
                self.checkpoint(step, total)
        return True

    def _pauses(self) -> bool:
        return bool(self.ranks.agree(self.journal.seconds > 60 * self.options.pause_minutes))

    def _within_budget(self, step: int, total: int, pace: float) -> int:
        if not self.options.max_minutes:
            return total
        left = 60 * self.options.max_minutes - self.journal.seconds
        possible = affordable(step, left, pace)
        if possible >= total:
            return total
        self.journal.say(f"the budget allows {possible} steps instead of {total}")
        return possible


def make_optimizer(model: Pebble, options: Options, device: torch.device) -> AdamW:
    """AdamW that decays the matrices and leaves the norms alone."""
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [w for w in weights if w.ndim == 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=options.peak_rate, betas=(0.9, 0.95), fused=device.type == "cuda")


def train(options: Options) -> None:
    """Make the data, train, and write the finished model."""
    ranks = Ranks.join()
    journal = Journal(options.out / "train_log.jsonl", time.monotonic(), silent=not ranks.leads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    if options.start_from:
        tokenizer = Tokenizer.from_file(str(options.start_from / "tokenizer.json"))
    else:
        tokenizer = build_tokenizer(options.seed)
        journal.say("made the tokenizer")
    # Each rank draws samples of its own.
    seed = options.seed + 1000 * ranks.rank
    samples = draw_samples(tokenizer, options.samples, seed, options.workers)
    journal.say(f"drew {options.samples} samples with {options.workers} workers")
    model = Pebble(options.shape).to(device)
    if options.start_from:
        model.load_state_dict(read_shards(options.start_from, "model"))
    optimizer = make_optimizer(model, options, device)
    progress = Progress(0, options.steps)
    if options.resume:
        progress = load_training(model, optimizer, options.resume)
        journal.say(f"going on from step {progress.step} of {progress.total}")
    count = sum(weight.numel() for weight in model.parameters())
    journal.say(f"training {count} parameters on {device.type}")
    trainer = Trainer(options, device, tokenizer, model, optimizer, journal, ranks)
    if trainer.run(samples, progress) and ranks.leads:
        save_model(model, tokenizer, options.out, options.shard_mb)
        journal.say(f"wrote the model to {options.out}")
    ranks.part()


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the options from a command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Options):
        flag = "--" + field.name.replace("_", "-")
        if field.name in ("out", "resume", "start_from"):
            parser.add_argument(
                flag, type=Path, required=field.name == "out", help=HELP[field.name]
            )
            continue
        kind = type(field.default)
        parser.add_argument(flag, type=kind, default=field.default, help=HELP.get(field.name))
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    train(parse())
