"""What transformers makes of the templates: ``python -m tests.text.record`` writes it down."""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

from tests.text.checkpoints import FOLDERS, PROMPT, Folder, write
from tests.text.templates import CASES, SPECIAL, Case

EXPECTED = Path(__file__).parent / "expected.json"
SPECIAL_IDS = Path(__file__).parent / "special.json"


def rendered(case: Case) -> str:
    """By transformers; a test that asks for it must have it."""
    utils: Any = importlib.import_module("transformers.utils.chat_template_utils")
    base: Any = importlib.import_module("transformers.tokenization_utils_base")
    (text,), _ = utils.render_jinja_template(
        conversations=[base._normalize_chat_messages(case.messages)],
        tools=case.tools,
        documents=case.documents,
        chat_template=case.template,
        add_generation_prompt=case.add_generation_prompt,
        **SPECIAL,
    )
    return text


def special_ids(folder: Folder) -> list[int]:
    """Ids of the prompt, by transformers."""
    transformers: Any = importlib.import_module("transformers")
    with tempfile.TemporaryDirectory() as directory:
        path = write(folder, Path(directory))
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(path)
        text = tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], tokenize=False)
        return tokenizer(text, add_special_tokens=False)["input_ids"]


def expected() -> dict[str, str]:
    """As it was recorded."""
    return json.loads(EXPECTED.read_text("utf-8"))


def expected_ids() -> dict[str, list[int]]:
    """As they were recorded."""
    return json.loads(SPECIAL_IDS.read_text("utf-8"))


if __name__ == "__main__":
    found = {name: rendered(case) for name, case in CASES.items()}
    EXPECTED.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", "utf-8")
    ids = {name: special_ids(folder) for name, folder in FOLDERS.items()}
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in ids.items())
    SPECIAL_IDS.write_text(f"{{\n{lines}\n}}\n", "utf-8")
