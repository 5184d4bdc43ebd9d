"""Decoders for the foreign models, as their users write them: correct ones, and faulty ones.

All take one prompt [1, P] and return the whole canvas [1, L] after the last step, greedily: a step
commits the most confident masks of its block, as many as its share; or, with a threshold, the best
and all that reach it. The mask itself is never committed.

Shape letters: B batch (1), P prompt length, L canvas length, R rows of this call, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specimens.hf_style import HFModelForMaskedLM
from specimens.llada_style import LLaDAModelLM

DualFault = Literal[
    "none",
    "replace_off_by_one",
    "no_refresh",
    "budget",
    "eos_break",
]
"""What ``dual_cache`` does wrong.

``replace_off_by_one``: the fresh rows go into the cache one position too far left.
``no_refresh``: only the first block begins with a forward over all rows.
``budget``: the steps of a block end although the threshold left masks.
``eos_break``: everything ends at the first EOS that is committed, with masks before it.
"""


def start_canvas(prompt: Tensor, gen_length: int, mask_id: int) -> Tensor:
    """The prompt and ``gen_length`` masks."""
    canvas = prompt.new_full((1, prompt.shape[1] + gen_length), mask_id)
    canvas[:, : prompt.shape[1]] = prompt
    return canvas


def blocks(prompt: Tensor, gen_length: int, block_length: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each block."""
    stop = prompt.shape[1] + gen_length
    for start in range(prompt.shape[1], stop, block_length):
        yield start, min(start + block_length, stop)


def choose(
    logits: Tensor,
    masked: Tensor,
    mask_id: int,
    share: int,
    threshold: float | None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Tokens [B, R] and where they are committed, bool [B, R].

    The mask is never chosen, and keeps its share of the probability, as in published code.

    Args:
        logits: [B, R, V] of the same rows as ``masked`` [B, R], which says where a mask may go.
        share: how many to commit without a threshold.
        dtype: of the softmax behind the confidence; bfloat16 ties what is not equal.
    """
    possible = logits.clone()
    possible[..., mask_id] = -torch.inf
    token = possible.argmax(dim=-1)
    probability = F.softmax(logits.to(dtype), dim=-1)
    confidence = probability.gather(-1, token.unsqueeze(-1)).squeeze(-1)
    confidence = torch.where(masked, confidence, -torch.inf)
    order = confidence.argsort(dim=-1, descending=True, stable=True)
    commit = torch.zeros_like(masked)
    for b in range(masked.shape[0]):
        for i, row in enumerate(order[b].tolist()):
            enough = i < share if threshold is None else i == 0 or confidence[b, row] >= threshold
            if enough and masked[b, row]:
                commit[b, row] = True
    return token, commit


def share_of(canvas: Tensor, start: int, stop: int, mask_id: int, steps_left: int) -> int:
    """Masks of the block over the steps it has left, rounded up."""
    left = int((canvas[:, start:stop] == mask_id).sum())
    return -(-left // max(1, steps_left))


@torch.no_grad()
def plain(
    model: nn.Module,
    prompt: Tensor,
    mask_id: int,
    *,
    gen_length: int = 16,
    block_length: int = 8,
    threshold: float | None = None,
    confidence_dtype: torch.dtype = torch.float64,
    finish: bool = True,
) -> Tensor:
    """No cache: every step computes all positions. Serves all three styles.

    Args:
        confidence_dtype: faulty in bfloat16, see ``choose``.
        finish: False is faulty with a threshold: a block ends after half as many steps as it has
            positions, and leaves masks.
    """
    canvas = start_canvas(prompt, gen_length, mask_id)
    for start, stop in blocks(prompt, gen_length, block_length):
        step = 0
        budget = (stop - start) // 2 if not finish else stop - start
        while (canvas[:, start:stop] == mask_id).any() and (finish or step < budget):
            out = model(canvas)
            logits = out if isinstance(out, Tensor) else out.logits
            masked = canvas == mask_id
            masked[:, stop:] = False
            share = share_of(canvas, start, stop, mask_id, budget - step)
            token, commit = choose(logits, masked, mask_id, share, threshold, confidence_dtype)
            canvas = torch.where(commit, token, canvas)
            step += 1
    return canvas


@torch.no_grad()
def one_by_one(net: nn.Module, prompt: Tensor, gen_length: int, mask_id: int) -> Tensor:
    """No cache and no blocks: the most probable token of the whole canvas first."""
    canvas = start_canvas(prompt, gen_length, mask_id)
    while bool((canvas == mask_id).any()):
        logits = net(canvas)
        logits[..., mask_id] = -torch.inf
        best, token = logits.softmax(-1).max(-1)
        at = torch.where(canvas == mask_id, best, -1).argmax(-1)
        canvas[0, at] = token[0, at]
    return canvas


def prefix_cache(
    model: HFModelForMaskedLM,
    prompt: Tensor,
    *,
    gen_length: int = 16,
    block_length: int = 8,
    threshold: float | None = None,
    shift: int = 0,
) -> Tensor:
    """Prefix cache: a block's first step computes all rows, the others those from its start on.

    Args:
        shift: added to the position ids of the cached steps; anything but 0 is faulty.
    """
    mask_id = model.config.mask_token_id
    canvas = start_canvas(prompt, gen_length, mask_id)
    for start, stop in blocks(prompt, gen_length, block_length):
        out = model(canvas, use_cache=True)
        logits = out.logits[:, start:]
        prefix = tuple((k[:, :, :start], v[:, :, :start]) for k, v in out.past_key_values)
        for step in range(stop - start):
            masked = canvas[:, start:] == mask_id
            masked[:, stop - start :] = False
            if not masked.any():
                break
            share = share_of(canvas, start, stop, mask_id, stop - start - step)
            token, commit = choose(logits, masked, mask_id, share, threshold)
            canvas[:, start:] = torch.where(commit, token, canvas[:, start:])
            position_ids = torch.arange(start, canvas.shape[1], device=canvas.device) + shift
            logits = model(
                canvas[:, start:],
                position_ids=position_ids.unsqueeze(0),
                past_key_values=prefix,
            ).logits
    return canvas


@torch.no_grad()
def dual_cache(
    model: LLaDAModelLM,
    prompt: Tensor,
    *,
    gen_length: int = 16,
    block_length: int = 8,
    threshold: float | None = None,
    skip_layer_k: int | None = None,
    skip_threshold: float = 1.0,
    skip_outlier: float = 0.7,
    fault: DualFault = "none",
) -> Tensor:
    """Dual cache, with the token skip of the model if ``skip_layer_k`` is given.

    Whether the skip compares the right rows is a matter of the model: see ``llada_style``.
    """
    mask_id, eos_id = model.config.mask_token_id, model.config.eos_token_id
    canvas = start_canvas(prompt, gen_length, mask_id)
    past, hidden, logits = None, None, None
    for start, stop in blocks(prompt, gen_length, block_length):
        replace = torch.zeros_like(canvas, dtype=torch.bool)
        shift = 1 if fault == "replace_off_by_one" else 0
        replace[:, start - shift : stop - shift] = True
        steps = (stop - start) // 2 if fault == "budget" else stop - start
        for step in range(steps):
            block = canvas[:, start:stop]
            masked = block == mask_id
            if not masked.any():
                break
            if past is None or (step == 0 and fault != "no_refresh"):
                out = model(canvas, use_cache=True, output_hidden_states=True)
                past, hidden = out.past_key_values, out.hidden_states
                logits = out.logits[:, start:stop]
            else:
                out = model(
                    block,
                    past_key_values=past,
                    use_cache=True,
                    replace_position=replace,
                    output_hidden_states=True,
                    prev_hidden=hidden if skip_layer_k and step > 0 else None,
                    skip_layer_k=skip_layer_k,
                    skip_threshold=skip_threshold,
                    skip_outlier=skip_outlier,
                )
                past, hidden, logits = out.past_key_values, out.hidden_states, out.logits
            share = share_of(canvas, start, stop, mask_id, steps - step)
            token, commit = choose(logits, masked, mask_id, share, threshold)
            block = torch.where(commit, token, block)
            canvas = torch.cat([canvas[:, :start], block, canvas[:, stop:]], dim=1)
            if fault == "eos_break" and (block == eos_id).any():
                return canvas
    return canvas


def row_similarities(
    before: tuple[Tensor, ...], now: tuple[Tensor, ...], skip_layer_k: int, offset: int = 0
) -> list[list[float]]:
    """Cosines of layers 1..K-1 of each row of ``now``, row by row, as a trace by hand takes them.

    Args:
        before: states of the call before.
        offset: where in ``before`` the first row of ``now`` stands; 0 is faulty if ``before`` has
            the whole canvas.
    """
    found = list[list[float]]()
    for j in range(now[0].shape[1]):
        cosines = list[float]()
        for layer in range(1, skip_layer_k):
            h1 = before[layer][0, offset + j, :]
            h2 = now[layer][0, j, :]
            cosines.append(F.cosine_similarity(h1.unsqueeze(0), h2.unsqueeze(0), dim=-1).item())
        found.append(cosines)
    return found


@torch.no_grad()
def single_step_twice(
    model: LLaDAModelLM,
    prompt: Tensor,
    thresholds: tuple[float, float] = (1.0, 0.9),
    *,
    skip_layer_k: int = 3,
    gen_length: int = 16,
    block_length: int = 8,
    separate: bool = False,
) -> tuple[Tensor, Tensor]:
    """Logits of one and the same step under two skip thresholds.

    Args:
        separate: give each call its own copy of the cache. False is faulty: the first call
            overwrites the cache that the second starts from.
    """
    mask_id = model.config.mask_token_id
    canvas = start_canvas(prompt, gen_length, mask_id)
    start, stop = next(blocks(prompt, gen_length, block_length))
    out = model(canvas, use_cache=True, output_hidden_states=True)
    past, hidden = out.past_key_values, out.hidden_states
    masked = canvas == mask_id
    masked[:, stop:] = False
    token, commit = choose(out.logits, masked, mask_id, 1, None)
    canvas = torch.where(commit, token, canvas)
    replace = torch.zeros_like(canvas, dtype=torch.bool)
    replace[:, start:stop] = True
    logits = list[Tensor]()
    for threshold in thresholds:
        logits.append(
            model(
                canvas[:, start:stop],
                past_key_values=[(k.clone(), v.clone()) for k, v in past] if separate else past,
                use_cache=True,
                replace_position=replace,
                output_hidden_states=True,
                skip_layer_k=skip_layer_k,
                skip_threshold=threshold,
                prev_hidden=hidden,
            ).logits
        )
    return logits[0], logits[1]
