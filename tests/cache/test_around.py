"""A session that stands before another one answers as that does."""

from skipstone.cache.base import CacheSession, SessionAround


def test_all_that_is_asked_of_a_session_is_handed_on() -> None:
    asked = {name for name in vars(CacheSession) if not name.startswith("_")}
    assert asked
    assert asked <= vars(SessionAround).keys()
