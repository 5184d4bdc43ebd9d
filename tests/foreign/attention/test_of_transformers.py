"""Eager attention of published modelling code is recorded with all its parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import skipstone as st
from skipstone.diagnosis.attention.call import read

transformers = pytest.importorskip("transformers")

MASK, PADS = 99, 2
SMALL = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
SHARED = {**LLAMA, "num_key_value_heads": 2}
MODELS: tuple[tuple[str, str, dict[str, int]], ...] = (
    ("LlamaConfig", "LlamaForCausalLM", SHARED),
    ("Qwen3Config", "Qwen3ForCausalLM", {**SHARED, "head_dim": 8}),
    ("BertConfig", "BertForMaskedLM", LLAMA),
    ("GPTNeoXConfig", "GPTNeoXForCausalLM", LLAMA),
    ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    ("BloomConfig", "BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    ("FalconConfig", "FalconForCausalLM", LLAMA),
    ("MptConfig", "MptForCausalLM", {"d_model": 32, "n_layers": 2, "n_heads": 4}),
)


def built(config: str, model: str, sizes: dict[str, int], dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    kind = getattr(transformers, model)
    settings = getattr(transformers, config)(**SMALL, **sizes)
    net = kind._from_config(settings, attn_implementation="eager").to(dtype).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            # Sharper, so that it matters who sees whom.
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)
    return net


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("config", "model", "sizes"), MODELS, ids=[m for _, m, _ in MODELS])
def test_eager_attention_is_recorded_as_it_was(
    config: str, model: str, sizes: dict[str, int], dtype: torch.dtype
) -> None:
    net = built(config, model, sizes, dtype)
    ids = torch.randint(3, 90, (2, 12), generator=torch.Generator().manual_seed(1))
    ids[:, 8:] = MASK
    visible = torch.ones_like(ids)
    visible[1, :PADS] = 0
    with torch.no_grad(), st.attach(net, mask_id=MASK, level="full") as recorder:
        net(ids, attention_mask=visible)
    assert "attention_not_recorded" not in {e.kind for r in recorder.records for e in r.events}
    near = 1e-5 if dtype == torch.float32 else 8e-3
    for sample, first in ((0, 0), (1, PADS)):
        call = read(recorder.trace, sample, 0, 2)
        assert call is not None
        # Rows of padding see nothing, and what they give is nobody's.
        apart = np.abs(call.computed() - call.mixed_NHW)[first:]
        assert apart.max() <= near * np.abs(call.mixed_NHW).max()
        assert call.scale == pytest.approx(8**-0.5)
        assert (call.bias_NHK[first:, :, :first] < -1e3).all()
        if sizes is SHARED:
            assert call.key_heads == call.value_heads == (0, 0, 1, 1)
