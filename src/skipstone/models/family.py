"""Which entry of the table a config.json belongs to, and what to say of models that do not run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from skipstone.errors import CheckpointError
from skipstone.models.architecture import Architecture
from skipstone.models.table import ARCHITECTURES
from skipstone.quoting import shown

UNSUPPORTED = {
    "LlavaLLaDAModelLM": ("LLaDA-V", "reads images: towers and projections for them are not built"),
    "MMadaModelLM": ("MMaDA", "text and images in one canvas, each decoded by a rule of its own"),
    "SDARMoeForCausalLM": ("SDAR-MoE", "its router is none of those that are built"),
    "Fast_dLLM_QwenForCausalLM": (
        "Fast-dLLM v2",
        "blocks within blocks; a forward that writes K/V also decides a token",
    ),
    "NemotronLabsDiffusionModel": (
        "Nemotron-Labs-Diffusion",
        "YaRN rotation, scaled queries, three ways to decode",
    ),
    "WeDLMForCausalLM": (
        "WeDLM",
        "causal attention over positions that are moved when decided",
    ),
}
"""Published classes that are not in the table: what they are called, and what they would take."""


def find_entry(path: Path, values: Mapping[str, object]) -> Architecture:
    """The entry of a config.json.

    Raises:
        CheckpointError: the checkpoint is quantised, or of an architecture that is not in the
            table; each for its own reason.
    """
    for key in ("quantization_config", "quantization", "compression_config"):
        if values.get(key) is not None:
            raise CheckpointError(
                f"{path}: {_quantised(values[key])}; quantised checkpoints are not supported, use "
                f"the original"
            )
    architecture, kind = _class_of(path, values), values.get("model_type")
    for entry in ARCHITECTURES.values():
        # A file that names no class is that of the first entry with its type.
        unnamed = () if entry.needs_name else (None, entry.model_type)
        if kind == entry.model_type and architecture in (entry.name, *unnamed):
            return entry
    reason = _reason(kind if architecture is None else architecture, kind)
    raise CheckpointError(f"{path}: {reason}; {_choice()}")


def _class_of(path: Path, values: Mapping[str, object]) -> object:
    """The class that a file names first; None if it names none."""
    named = values.get("architectures")
    if named is None or named == []:
        return None
    if isinstance(named, list):
        return named[0]
    raise CheckpointError(
        f"{path}: architectures is {shown(named)}, must be a list with the name of a class; copy "
        f"config.json from the published checkpoint"
    )


def _choice() -> str:
    return f"choose a checkpoint of {', '.join(ARCHITECTURES)}"


def _reason(architecture: object, kind: object) -> str:
    what = f"architecture {shown(architecture)} is not supported"
    if architecture is None:
        return f"{what}: neither architectures nor model_type says what the model is"
    entry = ARCHITECTURES.get(str(architecture))
    if entry is not None:
        stated = "without model_type" if kind is None else f"with model_type {shown(kind)}"
        return f"{what} {stated}: that of {entry.title} is {entry.model_type!r}"
    if str(architecture) in UNSUPPORTED:
        name, _ = UNSUPPORTED[str(architecture)]
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
