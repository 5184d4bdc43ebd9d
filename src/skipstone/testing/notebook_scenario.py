"""Why does the answer get worse at skip_threshold=0.9999? A trace by hand, and what is wrong in it.

The script decodes one prompt twice, without and with a token skip, keeps what it sees of each step,
looks for the first difference, and repeats one step by hand. It does so as a notebook did, with
the mistakes of that notebook. Skipstone watches, and says at the end what it saw:

    python -m skipstone.testing.notebook_scenario             # as it was
    python -m skipstone.testing.notebook_scenario --repaired  # with six mistakes removed

Shape letters: B batch (1), L canvas length, N rows, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import skipstone
from skipstone.foreign.attach.attach import attach
from skipstone.foreign.sanitizer.sanitize import sanitize
from skipstone.record import Event
from skipstone.testing.notebook_model import NotebookModel, from_pebble

PROMPT = "Complete this Latin square: 2 0 3 0 / 0 0 0 0 / 0 0 4 0 / 0 0 0 0."
GEN_LENGTH, BLOCK_LENGTH = 64, 32
STEPS_PER_BLOCK = 8
THRESHOLD = 0.9
SKIP_LAYER_K, SKIP_OUTLIER = 18, 0.7
# As large a part of this vocabulary of 2048 as 2000 of the 126,464 of LLaDA-8B.
SAMPLE = 32


@dataclass
class Step:
    """What the notebook keeps of a step."""

    block: int
    step: int
    canvas: Tensor
    """After the commit."""
    logits: Tensor
    """A sample of the vocabulary, or all of it."""
    similarities: list[list[float]]
    """One list for each row, with one cosine for each layer."""


def choose(logits: Tensor, masked: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """Tokens [B, N] and which to commit: the most confident mask, and all at the threshold."""
    probabilities = logits.double().softmax(-1)
    probabilities[..., mask_id] = 0
    confidence, token = probabilities.max(-1)
    confidence = torch.where(masked, confidence, -1.0)
    best = torch.zeros_like(masked).scatter_(1, confidence.argmax(-1, keepdim=True), True)
    return token, masked & (best | (confidence >= THRESHOLD))


def similarities(
    before: tuple[Tensor, ...], now: tuple[Tensor, ...], start: int, *, repaired: bool
) -> list[list[float]]:
    """Cosines between the states of a step and of the one before, token by token."""
    rows = now[0].shape[1]
    if repaired:
        first = start if before[0].shape[1] > rows else 0
        old = torch.stack(before[1:SKIP_LAYER_K])[:, 0, first : first + rows]
        new = torch.stack(now[1:SKIP_LAYER_K])[:, 0]
        return F.cosine_similarity(old.float(), new.float(), dim=-1).T.tolist()
    found = list[list[float]]()
    for j in range(rows):
        cosines = list[float]()
        for layer in range(1, SKIP_LAYER_K):
            h1, h2 = before[layer][0, j, :], now[layer][0, j, :]
            cosines.append(F.cosine_similarity(h1.unsqueeze(0), h2.unsqueeze(0), dim=-1).item())
        found.append(cosines)
    return found


def sample(logits: Tensor, *, repaired: bool) -> Tensor:
    """What is kept of the logits of a block."""
    return logits.clone() if repaired else logits[:, :, :SAMPLE].clone()


@torch.no_grad()
def run_with_trace(
    model: NotebookModel,
    prompt: Tensor,
    skip_threshold: float,
    blocks: int = GEN_LENGTH // BLOCK_LENGTH,
) -> tuple[Tensor, list[Step]]:
    """Decode with a dual cache, and keep what is seen of every step."""
    mask_id, repaired = model.config.mask_token_id, model.config.repaired
    x = torch.full((1, prompt.shape[1] + GEN_LENGTH), mask_id)
    x[:, : prompt.shape[1]] = prompt
    log = list[Step]()
    for block in range(blocks):
        s = prompt.shape[1] + block * BLOCK_LENGTH
        e = s + BLOCK_LENGTH
        replace_position = torch.zeros_like(x, dtype=torch.bool)
        replace_position[:, s:e] = True
        out = model(x)
        past, hidden = out.past_key_values, out.hidden_states
        masked = x == mask_id
        masked[:, e:] = False
        token, commit = choose(out.logits, masked, mask_id)
        x = torch.where(commit, token, x)
        log.append(Step(block, 0, x, sample(out.logits[:, s:e], repaired=repaired), []))
        step = 1
        while (x[:, s:e] == mask_id).any():
            if not repaired and step == STEPS_PER_BLOCK:
                break
            out = model(
                x[:, s:e],
                past_key_values=past,
                replace_position=replace_position,
                prev_hidden=hidden,
                skip_layer_k=SKIP_LAYER_K,
                skip_threshold=skip_threshold,
                skip_outlier=SKIP_OUTLIER,
            )
            cosines = similarities(hidden, out.hidden_states, s, repaired=repaired)
            token, commit = choose(out.logits, x[:, s:e] == mask_id, mask_id)
            new = torch.where(commit, token, x[:, s:e])
            x = torch.cat([x[:, :s], new, x[:, e:]], dim=1)
            log.append(Step(block, step, x, sample(out.logits, repaired=repaired), cosines))
            hidden = out.hidden_states
            step += 1
    return x, log


def first_difference(a: list[Step], b: list[Step]) -> str:
    """Where two runs part, as far as the kept logits and canvases show it."""
    for one, two in zip(a, b, strict=False):
        same = torch.allclose(one.logits, two.logits, atol=1e-3)
        if not (same and torch.equal(one.canvas, two.canvas)):
            return f"block {one.block}, step {one.step}"
    return "nowhere" if len(a) == len(b) else "in the number of steps"


@torch.no_grad()
def single_step(model: NotebookModel, prompt: Tensor) -> float:
    """The largest difference between the logits of one step at two skip thresholds."""
    mask_id = model.config.mask_token_id
    x = torch.full((1, prompt.shape[1] + GEN_LENGTH), mask_id)
    x[:, : prompt.shape[1]] = prompt
    s, e = prompt.shape[1], prompt.shape[1] + BLOCK_LENGTH
    replace_position = torch.zeros_like(x, dtype=torch.bool)
    replace_position[:, s:e] = True
    out = model(x)
    masked = x == mask_id
    masked[:, e:] = False
    token, commit = choose(out.logits, masked, mask_id)
    x = torch.where(commit, token, x)
    logits = list[Tensor]()
    for skip_threshold in (1.0, 0.9999):
        past = out.past_key_values
        if model.config.repaired:
            past = [(k.clone(), v.clone()) for k, v in past]
        step = model(
            x[:, s:e],
            past_key_values=past,
            replace_position=replace_position,
            prev_hidden=out.hidden_states,
            skip_layer_k=SKIP_LAYER_K,
            skip_threshold=skip_threshold,
            skip_outlier=SKIP_OUTLIER,
        )
        logits.append(step.logits)
    return float((logits[0] - logits[1]).abs().max())


def findings(*, repaired: bool) -> list[Event]:
    """Run everything under Skipstone's eyes, and hand over what it has to say."""
    model = from_pebble(repaired=repaired)
    text = skipstone.load("pebble", device="cpu").text
    prompt = torch.tensor([text.encode(PROMPT)])

    with attach(model, stated={"skip_threshold": 1.0}) as first:
        x1, log1 = run_with_trace(model, prompt, skip_threshold=1.0)
    with attach(model, stated={"skip_threshold": 0.9999}) as second:
        # The label says 0.9999.
        x2, log2 = run_with_trace(model, prompt, skip_threshold=0.9999 if repaired else 0.99)
        where = first_difference(log1, log2)
    with sanitize(model) as report:
        run_with_trace(model, prompt, skip_threshold=0.9999, blocks=1)
        single_step(model, prompt)

    for label, x in (("1", x1), ("0.9999", x2)):
        print(f"threshold {label}: {text.decode(x[0, prompt.shape[1] :].tolist())}")
    print(f"the runs part: {where}")
    # The sanitizer looks at the beginning only, where masks are left of course.
    rows = [event for event in report.events if event.kind != "masks_left"]
    return [*second.records[0].events, *first.records[0].events, *rows]


def print_findings(events: Iterable[Event]) -> None:
    """One paragraph for each kind and place, however often it was seen."""
    told = set[tuple[str, str]]()
    for event in events:
        if (event.kind, event.source) not in told:
            told.add((event.kind, event.source))
            print(f"\n{event.kind} {event.source}\n  {event.message}")


if __name__ == "__main__":
    print_findings(findings(repaired="--repaired" in sys.argv[1:]))
