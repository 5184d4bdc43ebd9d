"""Chat templates render as transformers renders them, feature by feature."""

from __future__ import annotations

import importlib.util

import pytest

from skipstone.testing.checkpoint import EOS, MASK, byte_tokenizer
from skipstone.text import Text
from tests.text.record import expected, rendered
from tests.text.templates import CASES, SPECIAL

RECORDED = expected()


@pytest.mark.parametrize("name", CASES)
def test_a_template_renders_as_recorded(name: str) -> None:
    case = CASES[name]
    text = Text(
        byte_tokenizer(),
        template=case.template,
        special=SPECIAL,
        mask_id=MASK,
        eos_id=EOS,
        source="here",
    )
    found = text.render(
        case.messages,
        add_generation_prompt=case.add_generation_prompt,
        tools=case.tools,
        documents=case.documents,
    )
    assert found == RECORDED[name]


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
@pytest.mark.parametrize("name", CASES)
def test_what_is_recorded_is_what_transformers_renders(name: str) -> None:
    assert rendered(CASES[name]) == RECORDED[name]
