"""What transformers makes of the templates: ``python -m tests.text.record`` writes it down."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from tests.text.templates import CASES, SPECIAL, Case

EXPECTED = Path(__file__).parent / "expected.json"


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


def expected() -> dict[str, str]:
    """As it was recorded."""
    return json.loads(EXPECTED.read_text("utf-8"))


if __name__ == "__main__":
    found = {name: rendered(case) for name, case in CASES.items()}
    EXPECTED.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", "utf-8")
