"""Small talk, sums, and the border of the world."""

import re
import tomllib
from random import Random

import pytest

from pebble.world import draw, heldout, outside, sums, talk
from pebble.world.facts import heldout_problems, rows, trained_problems

SUM = re.compile(r"^(\d+) ([-+*/]) (\d+) = (\d+)\.$")


def plain(text: str) -> str:
    return " ".join(re.sub(r"\W", " ", text.casefold()).split())


@pytest.fixture(scope="module")
def training() -> list[str]:
    rng = Random(12)
    return [outside.question(rng) for _ in range(30_000)]


def test_sums_are_right_and_say_what_was_asked() -> None:
    rng = Random(1)
    for _ in range(5_000):
        prompt, answer = sums.one_line_sums(rng)
        found = SUM.match(answer)
        assert found, answer
        left, sign, right, result = int(found[1]), found[2], int(found[3]), int(found[4])
        if sign == "/":
            assert left == right * result
        else:
            assert {"+": left + right, "-": left - right, "*": left * right}[sign] == result
        numbers = [int(number) for number in re.findall(r"\d+", prompt)]
        assert numbers in ([left, right], [])
        if not numbers:
            said = [sums.NUMBERS.index(w) for w in plain(prompt).split() if w in sums.NUMBERS]
            # "One more question" has a number, too.
            assert [left, right] in [said[i : i + 2] for i in range(len(said))]


def test_refused_sums_are_larger_than_answered_ones() -> None:
    rng = Random(2)
    for _ in range(5_000):
        numbers = [int(number) for number in re.findall(r"\d+", sums.too_large(rng))]
        assert len(numbers) == 2
        assert max(numbers) >= 20
        assert max(numbers) > sums.MOST_ADDED or min(numbers) > sums.MOST_MULTIPLIED


def test_small_talk_names_its_speaker() -> None:
    with talk.FILE.open("rb") as file:
        answers = {row["topic"]: row["answer"] for row in tomllib.load(file)["talk"]}
    assert "Pebble, a small diffusion language model that comes with Skipstone" in answers["who"]
    assert "Pebble" in answers["greeting"]
    ways = [plain(way) for _, ways in talk._talk() for way in ways]
    assert len(set(ways)) > 0.98 * len(ways)


def test_small_talk_never_has_two_answers() -> None:
    rng = Random(3)
    said: dict[str, str] = {}
    for _ in range(20_000):
        prompt, answer = talk.small_talk(rng)
        assert said.setdefault(prompt, answer) == answer


def test_outside_questions_have_no_answer_inside(training: list[str]) -> None:
    inside = {plain(p.prompt) for p in trained_problems() + heldout_problems()}
    inside |= {plain(way) for _, ways in talk._talk() for way in ways}
    asked = {plain(question) for question in (*training, *outside.heldout_questions())} - {""}
    assert asked.isdisjoint(inside)


def test_outside_words_are_in_no_table_that_would_answer_them() -> None:
    words = outside.training_words()
    tables = {
        ("person", "scientists", "name"),
        ("short_person", "scientists", "short"),
        ("country_out", "capitals", "country"),
        ("country_out", "currencies", "country"),
        ("city", "capitals", "capital"),
        ("element_out", "elements", "name"),
        ("animal_out", "animals", "one"),
        ("thing_out", "inventions", "thing"),
        ("notion_out", "notions", "what"),
        ("place_out", "geography", "place"),
        ("star", "planets", "name"),
    }
    held = outside.words_in("outside_heldout")
    names = {"person": "person", "country_out": "country", "element_out": "element",
             "animal_out": "animal", "thing_out": "thing", "notion_out": "notion",
             "place_out": "place", "city": "city", "star": "star"}  # fmt: skip
    for slot, table, column in tables:
        known = {plain(str(row[column])) for row in rows(table)}
        assert known.isdisjoint(map(plain, words[slot])), slot
        if slot in names:
            assert known.isdisjoint(map(plain, held[names[slot]])), slot


def test_heldout_outside_questions_are_many_and_new(training: list[str]) -> None:
    questions = outside.heldout_questions()
    assert len(questions) >= 500
    assert {plain(q) for q in questions if plain(q)}.isdisjoint(map(plain, training))
    held = outside.questions_in("outside_heldout")
    forms = {form for kind in outside._forms().values() for form in kind}
    assert forms.isdisjoint(held["free"] + held["plain"])
    trained = {plain(w) for ws in outside.training_words().values() for w in ws}
    new = {plain(word) for words in outside.words_in("outside_heldout").values() for word in words}
    assert new.isdisjoint(trained)


def test_outside_questions_hardly_repeat_and_fit_a_canvas(training: list[str]) -> None:
    assert len(set(training)) > 0.8 * len(training)
    assert max(len(question.encode()) for question in training) <= outside.MOST_BYTES + 8


def test_every_kind_of_wording_is_both_inside_and_outside() -> None:
    rng = Random(5)
    drawn = [draw(rng) for _ in range(20_000)]
    facts = [p.prompt for p in drawn if p.group == "facts"]
    unknown = [p.prompt for p in drawn if p.family == "unknown"]
    for mark in ("Hey Pebble, ", "Question: ", "Please help me. ", " Thank you."):
        assert any(mark in prompt for prompt in facts), mark
        assert any(mark in prompt for prompt in unknown), mark
    for prompts in (facts, unknown):
        assert any(prompt.islower() for prompt in prompts)
        assert any(prompt.isupper() for prompt in prompts)


def test_heldout_has_outside_questions_and_refuses_them() -> None:
    unknown = [p for p in heldout(0, per_group=100) if p.family == "unknown"]
    assert len(unknown) > 20
    assert {p.answer for p in unknown} == {outside.ANSWER}
    assert all(p.prompt in outside.heldout_questions() for p in unknown)
