"""What does it cost to find the commit rules of two runs at the size of a published vocabulary?

    python -m benchmarks.commit_rules --vocab 126464 --tokens 128 --steps 32 -o out.json

Two loops decode from made-up logits, one of them by another rule, as they are recorded at the full
level. Measured are the seconds until their difference is known, and the memory beside the traces.
"""

from __future__ import annotations

import json
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from skipstone import attach
from skipstone.diagnosis.case import Case
from skipstone.diagnosis.loop.finding import diagnosis_of
from skipstone.outputs import write_whole
from skipstone.record import MemoryTrace

_PROMPT, _MASK, _WIDTH = 8, 1, 16
RULES = ("same", "margin", "bfloat16", "threshold", "suppressed")


@dataclass(frozen=True)
class Found:
    """One pair of runs."""

    rule: str
    """Of the second run."""
    named: str
    seconds: float
    mebibytes: float
    """At most, beside the traces."""


class MadeUp(nn.Module):
    """Logits that follow from the ids of a row and its place, as fast as they can be made."""

    def __init__(self, vocab: int, length: int) -> None:
        """Fixed by a seed."""
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(vocab, _WIDTH)
        self.places = nn.Embedding(length, _WIDTH)
        self.layers = nn.ModuleList([nn.Linear(_WIDTH, _WIDTH)])
        self.head = nn.Linear(_WIDTH, vocab, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids [B, N] to logits [B, N, V]."""
        x = self.table(input_ids) + self.places.weight[: input_ids.shape[1]]
        x = self.layers[0](x + x.mean(1, keepdim=True))
        return self.head(x).to(torch.bfloat16)


@torch.no_grad()
def decode(net: nn.Module, tokens: int, steps: int, rule: str) -> MemoryTrace:
    """One run by a schedule, or by what is otherwise in it."""
    canvas = torch.full((1, _PROMPT + tokens), _MASK)
    canvas[:, :_PROMPT] = torch.arange(2, 2 + _PROMPT)
    stated = {"block_length": tokens, "steps": steps}
    watcher = attach(net, mask_id=_MASK, eos_id=0, level="full", stated=stated)
    with watcher:
        for left in range(steps, 0, -1):
            masks = canvas == _MASK
            logits = net(canvas).float()
            if rule == "suppressed":
                logits[..., 0 : logits.shape[-1] : 1000] = -torch.inf
            p = (logits.bfloat16() if rule == "bfloat16" else logits.double()).softmax(-1)
            best = p.topk(2, -1)
            sure = best.values[..., 0]
            sure = sure - best.values[..., 1] if rule == "margin" else sure
            sure = sure.masked_fill(~masks, -1.0)
            count = -(-int(masks.sum()) // left)
            chosen = sure.topk(min(count + (rule == "threshold"), int(masks.sum())), -1).indices
            canvas.scatter_(1, chosen, best.indices[..., 0].gather(1, chosen))
            if not (canvas == _MASK).any():
                break
    return watcher.trace


@click.command()
@click.option("--vocab", default=126_464)
@click.option("--tokens", default=128)
@click.option("--steps", default=32)
@click.option("--rule", "rules", multiple=True, type=click.Choice(RULES), default=RULES)
@click.option("-o", "out", type=Path, help="Write a JSON file.")
def main(vocab: int, tokens: int, steps: int, rules: tuple[str, ...], out: Path | None) -> None:
    """Find the difference of each rule from the plain one."""
    net = MadeUp(vocab, _PROMPT + tokens)
    plain = decode(net, tokens, steps, "same")
    found = list[Found]()
    for rule in rules:
        other = decode(net, tokens, steps, rule)
        began, before = time.perf_counter(), _peak()
        difference = Case(plain, other).loops.difference
        named = "none" if difference is None else diagnosis_of(difference)
        seconds = round(time.perf_counter() - began, 2)
        found.append(Found(rule, named, seconds, round((_peak() - before) / 1024, 1)))
        click.echo(str(found[-1]))
    if out is not None:
        write_whole(out, json.dumps([asdict(f) for f in found], indent=1) + "\n")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
