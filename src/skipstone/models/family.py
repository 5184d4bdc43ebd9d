"""Which family of models a config.json belongs to, and what to say of those that do not run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from skipstone.errors import CheckpointError
from skipstone.quoting import shown

MODEL_TYPE, ARCHITECTURE = "llada", "LLaDAModelLM"

_DIFFUSION = {
    "LLaDAMoEModelLM": "LLaDA-MoE",
    "LLaDA2MoeModelLM": "LLaDA2",
    "ILLaDAForCausalLM": "iLLaDA",
    "LlavaLLaDAModelLM": "LLaDA-V",
    "MMadaModelLM": "MMaDA",
    "DreamModel": "Dream",
    "SDARForCausalLM": "SDAR",
    "SDARMoeForCausalLM": "SDAR-MoE",
    "StableDiffcoderForCausalLM": "Stable-DiffCoder",
    "Fast_dLLM_QwenForCausalLM": "Fast-dLLM v2",
    "NemotronLabsDiffusionModel": "Nemotron-Labs-Diffusion",
    "WeDLMForCausalLM": "WeDLM",
}
"""Published classes of diffusion language models, and what they are called."""

_CHOICE = (
    f"choose a dense LLaDA checkpoint (model_type {MODEL_TYPE!r}, architecture {ARCHITECTURE})"
)


def check_family(path: Path, values: Mapping[str, object]) -> None:
    """Refuse every family but dense LLaDA, each for its own reason.

    Raises:
        CheckpointError: the checkpoint is quantised, or of another architecture.
    """
    for key in ("quantization_config", "quantization", "compression_config"):
        if values.get(key) is not None:
            raise CheckpointError(
                f"{path}: {_quantised(values[key])}; quantised checkpoints are not supported, use "
                f"the original"
            )
    named, kind = values.get("architectures"), values.get("model_type")
    architecture = named[0] if isinstance(named, list) and named else kind
    if kind == MODEL_TYPE and architecture in (ARCHITECTURE, MODEL_TYPE):
        return
    raise CheckpointError(f"{path}: {_reason(architecture, kind)}; {_CHOICE}")


def _reason(architecture: object, kind: object) -> str:
    what = f"architecture {shown(architecture)} is not supported"
    if architecture == ARCHITECTURE:
        stated = "without model_type" if kind is None else f"with model_type {shown(kind)}"
        return f"{what} {stated}: the class is that of dense LLaDA, the type is not"
    if architecture is None:
        return f"{what}: neither architectures nor model_type says what the model is"
    name = _DIFFUSION.get(str(architecture))
    if name is not None:
        return f"{what}: this is {name}, a diffusion language model that Skipstone cannot run yet"
    if str(architecture).endswith(("ForCausalLM", "LMHeadModel")):
        return f"{what}: it predicts the next token and is no diffusion language model"
    return what


def _quantised(settings: object) -> str:
    method, bits = "", None
    if isinstance(settings, Mapping):
        method = str(settings.get("quant_method") or settings.get("mode") or "")
        bits = settings.get("bits") or next(
            (n for n in (4, 8) if settings.get(f"load_in_{n}bit")), None
        )
    detail = ", ".join(filter(None, (method, f"{bits} bits" if bits else "")))
    return f"the weights are quantised{f' ({detail})' if detail else ''}"
