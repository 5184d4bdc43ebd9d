"""Sentences keep what they are made of, and every one of them can be said in every language."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable

import pytest
import torch

from skipstone.diagnosis.events import SHAPES, event_sentence
from skipstone.diff.compare import tokens_differ
from skipstone.foreign.attach.run import _differs
from skipstone.foreign.positions.evidence import Tally
from skipstone.report.words import in_language, sentences
from skipstone.sentence import Sentence, listed
from tests.diagnosis.templates import gaps, spoken_by_recorders, templates

ROWS = Sentence("{rows} rows, {share:.1f} of all", rows=3, share=0.25)


def test_a_sentence_is_its_english_text_everywhere() -> None:
    assert ROWS == "3 rows, 0.2 of all"
    assert json.dumps([ROWS]) == '["3 rows, 0.2 of all"]'
    braces = Sentence("{text}", text="{not} a {gap}")
    assert braces == "{not} a {gap}"


@pytest.mark.parametrize(
    ("number", "english", "chinese"),
    [
        (0, "0 final tokens differ", "最终有 0 个 token 不同"),
        (1, "1 final token differs", "最终有 1 个 token 不同"),
        (2, "2 final tokens differ", "最终有 2 个 token 不同"),
    ],
)
def test_one_token_differs_and_several_differ(number: int, english: str, chinese: str) -> None:
    said = Sentence("{kind}; {differing}", kind=Sentence("x"), differing=tokens_differ(number))
    assert said == f"x; {english}"
    assert in_language(tokens_differ(number), "zh") == chinese


def pickled(sentence: Sentence) -> Sentence:
    return pickle.loads(pickle.dumps(sentence))


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, pickled])
def test_a_copy_can_be_translated_too(again: Callable[[Sentence], Sentence]) -> None:
    sentence = Sentence("{first}; {then}", first=ROWS, then="{x}")
    copied = again(sentence)
    assert copied == sentence
    assert (copied.template, copied.values) == (sentence.template, sentence.values)
    assert in_language(copied, "zh") == "3 rows, 0.2 of all；{x}"


def test_a_list_leaves_out_what_says_nothing() -> None:
    parts = [Sentence("one"), Sentence(""), Sentence("two")]
    assert listed(parts) == "one; two"
    assert listed([]) == ""


def test_the_catalogue_has_what_rules_say_and_nothing_else() -> None:
    said = templates() | {"{first}; {then}", "{first}, {then}", "{first} and {then}", "{quoted}"}
    assert said - set(sentences("zh")) == set()
    assert set(sentences("zh")) - said == set()


def test_what_recorders_write_is_read_back() -> None:
    spoken = spoken_by_recorders()
    for shape in SHAPES:
        pieces = [piece for piece in re.split(r"\{\w+\}", shape) if len(piece.strip()) > 4]
        assert pieces
        for piece in pieces:
            assert piece in spoken, f"{shape!r} is not written by any recorder: {piece!r}"


def test_events_are_said_in_chinese() -> None:
    message = _differs("threshold", "0.9", "0.5", 3, "x.py:1").message
    assert in_language(event_sentence(message), "zh") == "threshold 声明为 0.9，运行收到的却是 0.5"
    tally = Tally("cosine_similarity", torch.bfloat16)
    tally.take(torch.tensor([0.99]), torch.tensor([0.9912]))
    assert "cosine_similarity 用 bfloat16" in in_language(event_sentence(tally.message), "zh")
    pairs = "mul takes the row of position 3 with that of position 5 and 2 more such pairs"
    longer = f"{pairs}; their similarity is 0.910000, at equal positions it is 0.990000"
    assert in_language(event_sentence(longer), "zh") == (
        "mul 把位置 3 的行与位置 5 的行放在一起，另有 2 对如此；"
        "它们的相似度为 0.910000，相同位置时为 0.990000"
    )
    assert event_sentence("something else\nentirely") == "something else\nentirely"


def test_every_template_fills_the_same_gaps_in_chinese() -> None:
    for english, chinese in sentences("zh").items():
        assert gaps(chinese) <= gaps(english), english
        assert gaps(chinese) == gaps(english) or english == "a run was refused: {error}"
