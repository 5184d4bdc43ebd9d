"""Which reader knows the cases of a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from skipstone.testing.golden.case import GoldenCase, InexpressibleError

Reader = Callable[[str, Mapping[str, Any]], Iterator[GoldenCase]]

READERS: dict[str, Reader] = {}


def read(policy: str, name: str, case: Mapping[str, Any]) -> Iterator[GoldenCase]:
    """The cases that a recorded one stands for.

    Raises:
        InexpressibleError: nobody knows the policy.
    """
    reader = READERS.get(policy)
    if reader is None:
        raise InexpressibleError(f"no policy of the engine is {policy!r}")
    yield from reader(name, case)
