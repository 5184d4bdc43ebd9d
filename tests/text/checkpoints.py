"""Tokenizer folders that name their special tokens in one published place or another.

``special.json`` holds the ids that transformers makes of a prompt; ``python -m tests.text.record``
writes it again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

NAMES = ("<s>", "</s>", "<turn>", "<mask>")
BOS, EOS, TURN, MASK = range(256, 260)
VOCAB = 300
PROMPT = "a<b>é"
TEMPLATE = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ turn_token }}"


class Folder(NamedTuple):
    """What lies beside tokenizer.json, and which tokens that has."""

    config: dict[str, object]
    special_map: dict[str, object] | None = None
    added: dict[str, int] | None = None
    known: tuple[str, ...] = NAMES
    """Tokens of tokenizer.json itself."""


def _described(name: str, *, special: bool = True) -> dict[str, object]:
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {"content": name, **flags, "special": special}


BOTH: dict[str, object] = {"bos_token": "<s>", "eos_token": "</s>"}
FOLDERS = {
    "config": Folder(BOTH),
    "map only": Folder({}, BOTH),
    "map only, described": Folder({}, {"bos_token": _described("<s>")}),
    "map overrides config": Folder({"bos_token": "</s>"}, {"bos_token": "<s>"}),
    "map takes a name away": Folder(BOTH, {"bos_token": None}),
    "described tokens leave the map out": Folder(
        {"added_tokens_decoder": {str(BOS): _described("<s>")}, "eos_token": "</s>"},
        {"bos_token": "<s>"},
    ),
    "typed": Folder({"bos_token": {"__type": "AddedToken", **_described("<s>")}}),
    "own name": Folder({**BOTH, "turn_token": "<turn>"}),
    "own name in a dict": Folder({**BOTH, "extra_special_tokens": {"turn_token": "<turn>"}}),
    "additional": Folder({**BOTH, "additional_special_tokens": ["<turn>"]}),
    "added file": Folder(BOTH, None, {"<turn>": TURN, "<mask>": MASK}, NAMES[:2]),
    "added tokens described": Folder(
        {
            **BOTH,
            "added_tokens_decoder": {
                str(BOS + i): _described(name) for i, name in enumerate(NAMES)
            },
        },
        known=(),
    ),
    "nothing": Folder({}),
}


def write(folder: Folder, directory: Path) -> Path:
    """Write a folder that transformers and we can read."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in folder.known])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": TEMPLATE,
        **folder.config,
    }
    files = {
        "tokenizer_config": config,
        "special_tokens_map": folder.special_map,
        "added_tokens": folder.added,
    }
    for name, value in files.items():
        if value is not None:
            (directory / f"{name}.json").write_text(json.dumps(value), "utf-8")
    return directory
