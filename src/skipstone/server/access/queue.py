"""How many answers may wait: who comes beyond that is told so at once."""

from __future__ import annotations

from skipstone.engine import EngineLoad
from skipstone.server.protocol.errors import AnswerError
from skipstone.server.served import RecentAnswers


def check_queue(load: EngineLoad, more: int, most_waiting: int, recent: RecentAnswers) -> None:
    """Refuse answers for which there is no place.

    Which of those that are taken wait for a slot, and which for memory, is the engine's affair.

    Args:
        load: of the engine.
        more: answers that are asked for.
        most_waiting: beside those that are decoded.
        recent: answers, for when to try again.

    Raises:
        AnswerError: they are too many at present, or at any time.
    """
    places = load.slots + most_waiting
    if more > places:
        raise AnswerError(
            400,
            f"{more} answers are asked for at once, and there are places for {places} "
            f"({load.slots} are decoded, {most_waiting} may wait); ask for fewer",
            code="too_many_answers",
        )
    taken = load.running + load.waiting
    if taken + more > places:
        raise AnswerError(
            429,
            f"{load.running} answers are decoded and {load.waiting} wait; with {more} more they "
            f"would be over {places}; try again later",
            kind="rate_limit_error",
            code="queue_full",
            headers={"retry-after": f"{recent.seconds_of(load)}"},
        )
