"""What of an answer is final, whatever the order in which tokens are decided."""

from __future__ import annotations

import random

import numpy as np
import pytest

from skipstone import load
from skipstone.engine.request import Request
from skipstone.engine.settings import Settings
from skipstone.server.answer.text import FinalText

MODEL = load("pebble")
MASK, EOS = MODEL.config.mask_id, MODEL.config.eos_id
ANSWER = "Isaac Newton was an English physicist. He — naturally — saw 光."


def ids_of(text: str) -> list[int]:
    return MODEL.text.encode_rendered(text)


def reader(length: int, limit: int, stops: tuple[str, ...] = ()) -> FinalText:
    request = Request((1,), (MASK,) * length, MASK, Settings(), (EOS,))
    return FinalText(request, MODEL.text, EOS, limit=limit, stops=stops)


def taken(found: FinalText, position: int, token: int) -> str:
    return found.take(np.array([position]), np.array([token]))


def pieces(found: FinalText, ids: list[int], seed: int) -> list[str]:
    """What is told while these are decided in some order."""
    order = list(enumerate(ids))
    random.Random(seed).shuffle(order)
    told = [taken(found, position, token) for position, token in order if found.finish is None]
    return [piece for piece in [*told, found.close()] if piece]


@pytest.mark.parametrize("seed", range(20))
def test_pieces_in_any_order_are_the_text_and_have_no_half_characters(seed: int) -> None:
    ids = ids_of(ANSWER)
    found = reader(len(ids) + 4, len(ids) + 4)
    told = pieces(found, [*ids, EOS, EOS, EOS, EOS], seed)
    assert "".join(told) == MODEL.text.decode(ids)
    assert not any("\ufffd" in piece for piece in told)
    assert (found.finish, found.tokens) == ("stop", len(ids))


@pytest.mark.parametrize("stop", ["Newton was", "physicist", "sicist. He", "s", "Isaac"])
@pytest.mark.parametrize("seed", range(10))
def test_a_stop_string_ends_it_wherever_tokens_are_cut(stop: str, seed: int) -> None:
    ids = ids_of(ANSWER)
    found = reader(len(ids), len(ids), (stop, "never there"))
    told = pieces(found, ids, seed)
    assert "".join(told) == ANSWER[: ANSWER.index(stop)]
    assert found.finish == "stop"
    # As few tokens as have the whole of the stop string.
    assert stop in MODEL.text.decode(ids[: found.tokens])
    assert stop not in MODEL.text.decode(ids[: found.tokens - 1])


def test_a_stop_string_that_a_token_completes_by_one_character_ends_it() -> None:
    ids = ids_of(ANSWER)
    for count in range(1, len(ids)):
        before = MODEL.text.decode(ids[:count])
        if "\ufffd" not in before:
            for length in range(1, min(len(before), 6)):
                stop = ANSWER[len(before) - length : len(before) + 1]
                found = reader(len(ids), len(ids), (stop,))
                told = [taken(found, position, token) for position, token in enumerate(ids)]
                assert "".join(told) == found.shown == ANSWER[: ANSWER.index(stop)]


def test_half_a_character_is_not_the_stop_string_that_stands_for_one() -> None:
    ids = ids_of(ANSWER)
    found = reader(len(ids), len(ids), ("\ufffd",))
    told = [taken(found, position, token) for position, token in enumerate(ids)]
    assert ("".join(told), found.finish) == (ANSWER, "length")


def test_the_beginning_of_a_stop_string_is_held_back_until_it_is_none() -> None:
    ids = ids_of("and so on")
    found = reader(len(ids), len(ids), ("and so forth",))
    told = [taken(found, position, token) for position, token in enumerate(ids[:-1])]
    assert "".join(told) == ""
    assert taken(found, len(ids) - 1, ids[-1]) == "and so on"


def test_it_is_cut_at_the_number_of_tokens_that_was_asked_for() -> None:
    ids = ids_of(ANSWER)
    found = reader(len(ids), 5)
    assert "".join(pieces(found, ids, 0)) == MODEL.text.decode(ids[:5])
    assert (found.finish, found.tokens) == ("length", 5)


def test_masks_that_are_left_end_it_before_the_first_of_them() -> None:
    ids = ids_of(ANSWER)
    found = reader(len(ids), len(ids))
    for position, token in enumerate(ids):
        if position != 4:
            taken(found, position, token)
    found.close()
    assert (found.shown, found.finish) == (MODEL.text.decode(ids[:4]), "length")
