"""To which replica a request goes: to the one that has the least to decode."""

from __future__ import annotations

import random
import time
from collections import defaultdict, deque
from collections.abc import Mapping

from ray.serve.request_router import (
    FIFOMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

POSITIONS, ANSWERS = "positions", "answers"
"""What replicas tell of themselves: positions of the answers that they decode and that wait there,
and how many answers these are."""

TOLD_SECONDS = 0.5
"""How often they tell."""
# What was sent longer ago is part of what they told.
_SEEN_SECONDS = 2 * TOLD_SECONDS


def expected_work(told: Mapping[str, float], unseen: int, typical: float) -> float:
    """Positions that a replica has to decode.

    Args:
        told: by the replica, some time ago.
        unseen: requests that it was sent since.
        typical: positions of an answer.
    """
    return told.get(POSITIONS, 0.0) + unseen * typical


def typical_answer(told: list[Mapping[str, float]]) -> float:
    """Positions of an answer, on the whole; 1 where nobody decodes any."""
    answers = sum(one.get(ANSWERS, 0.0) for one in told)
    return sum(one.get(POSITIONS, 0.0) for one in told) / answers if answers else 1.0


class LeastWorkRouter(FIFOMixin, RequestRouter):
    """Ranks replicas by the positions that they have to decode, what they wait for included.

    Requests count by their canvas: ten short ones are less than one long one. What a replica was
    sent since it last told counts as much as a typical answer.
    """

    def initialize_state(self, **kwargs: object) -> None:
        """Nothing was sent yet."""
        self._sent = defaultdict[ReplicaID, deque[float]](deque)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """All of them, the least laden first; those that are equal in any order."""
        typical = typical_answer([one.routing_stats for one in candidate_replicas])
        work = {
            one.replica_id: expected_work(one.routing_stats, self._unseen(one.replica_id), typical)
            for one in candidate_replicas
        }
        ranked = sorted(candidate_replicas, key=lambda one: (work[one.replica_id], random.random()))
        return [[one] for one in ranked]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Note that a replica was sent a request."""
        super().on_send_request(replica_id)
        self._sent[replica_id].append(time.monotonic())

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """What is done is no work any more."""
        super().on_request_completed(replica_id, internal_request_id)
        if sent := self._sent[replica_id]:
            sent.popleft()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Forget it."""
        super().on_replica_actor_died(replica_id)
        self._sent.pop(replica_id, None)

    def _unseen(self, replica_id: ReplicaID) -> int:
        sent, now = self._sent[replica_id], time.monotonic()
        while sent and sent[0] < now - _SEEN_SECONDS:
            sent.popleft()
        return len(sent)
