"""The tokenizer: ids, digits, round trips, chat form and lengths."""

import json
from pathlib import Path
from random import Random

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pebble.samples import MAX_ANSWER, MAX_PROMPT, tokenize
from pebble.tokenizer import BOS, SPECIALS, VOCAB_SIZE, build_tokenizer, chat, save_tokenizer
from pebble.world import draw


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(seed=0, problems=4_000)


def test_the_specials_close_the_vocabulary(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    ids = [tokenizer.token_to_id(special) for special in SPECIALS]
    assert ids == list(range(VOCAB_SIZE - len(SPECIALS), VOCAB_SIZE))


def test_building_is_repeatable(tokenizer: Tokenizer) -> None:
    assert build_tokenizer(seed=0, problems=4_000).to_str() == tokenizer.to_str()


@pytest.mark.parametrize("text", ["1234567890", "x=42;", "a = 199 * 2"])
def test_digits_stand_alone(text: str, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(text, add_special_tokens=False).tokens
    digits = [token for token in tokens if any(sign.isdigit() for sign in token)]
    assert len(digits) == sum(sign.isdigit() for sign in text)


@given(text=st.text())
def test_any_text_comes_back(text: str, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if not any(special in text for special in SPECIALS):
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_the_template_and_the_function_agree(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save_tokenizer(tokenizer, tmp_path)
    saved = json.loads((tmp_path / "tokenizer_config.json").read_text())
    template = jinja2.Template(saved["chat_template"])
    messages = [{"role": "user", "content": " Who is Newton, physics? "}]
    said = template.render(messages=messages, bos_token=BOS, add_generation_prompt=True)
    assert said == chat("Who is Newton, physics?")
    silent = template.render(messages=messages, bos_token=BOS, add_generation_prompt=False)
    assert said.startswith(silent)
    assert "assistant" not in silent
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).to_str() == tokenizer.to_str()


def test_lengths_stay_within_the_canvas(tokenizer: Tokenizer) -> None:
    rng = Random(2)
    samples = tokenize(tokenizer, [draw(rng) for _ in range(20_000)])
    assert samples.prompt_N.max() <= MAX_PROMPT
    assert samples.answer_N.max() <= MAX_ANSWER
    assert (samples.answer_N <= 64).mean() > 0.93
