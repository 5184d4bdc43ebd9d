"""What a cache policy is: it says which rows a step recomputes; all others keep their K/V."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from skipstone.canvas import StepContext
    from skipstone.rows import Rows


@runtime_checkable
class CachePolicy(Protocol):
    """Chooses rows. A frozen dataclass whose fields are its settings.

    It may say that it is ``pure``: that the rows depend on the step alone. Then steps of it may be
    launched ahead.
    """

    def rows(self, context: StepContext) -> Rows:
        """The rows of this step, for the active requests. Changes nothing.

        Step 0 of a block must recompute every row that the block will attend to and that may have
        changed; ``context.changed_rows()`` does.
        """
        ...
