"""What policies remember of the requests of a batch: a session for each policy that they have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

from skipstone.canvas import StepContext


class Session(Protocol):
    """What remembers something of requests."""

    def forget(self, request: int) -> None:
        """Drop what was remembered of the request in a slot."""
        ...


P = TypeVar("P")
S = TypeVar("S", bound=Session)


class Served(NamedTuple, Generic[P, S]):
    """Requests of a step that have the same policy."""

    policy: P
    session: S
    context: StepContext


class Sessions(Generic[P, S]):
    """Sessions of one kind of policy; requests with equal policies share one."""

    def __init__(self, start: Callable[[P], S], policy_of: Callable[[int], P]) -> None:
        """None yet.

        Args:
            start: makes the session of a policy.
            policy_of: the policy of the request in a slot.
        """
        self._start, self._policy_of = start, policy_of
        self._known = list[tuple[P, S]]()

    def admit(self, policy: P, slot: int, others: Iterable[P]) -> None:
        """Know nothing of the request in a slot, nor of policies that nobody has any more.

        Args:
            policy: of the request.
            slot: that it takes.
            others: policies of the other requests.
        """
        asked = list(others)
        self._known = [pair for pair in self._known if pair[0] in asked]
        self.of(policy).forget(slot)

    def of(self, policy: P) -> S:
        """What a policy remembers of the requests that have it."""
        for known, session in self._known:
            if known == policy:
                return session
        session = self._start(policy)
        self._known.append((policy, session))
        return session

    def serving(self, context: StepContext) -> Iterator[Served[P, S]]:
        """Each policy of the requests of a step, and those that have it.

        Where all have the same, that is the context itself, with what it holds on the device.
        """
        while context.requests:
            policy = self._policy_of(context.requests[0].slot)
            same, others = context.split(lambda at, of=policy: self._policy_of(at.slot) == of)
            yield Served(policy, self.of(policy), same if others.requests else context)
            context = others
