"""Makes the golden trace of the schema in use: ``python -m tests.record.traces.make``.

Run once for each schema; a trace that is there is never made again, since reading what older
versions wrote is what it is for.
"""

from __future__ import annotations

from pathlib import Path

from skipstone.record import open_trace
from skipstone.record.store import SCHEMA
from tests.helpers.synthetic_trace import write

PATH = Path(__file__).parent / f"schema-{SCHEMA}.trace"


def main() -> None:
    """Write a small trace that uses every field."""
    write(PATH, forwards=6)
    with open_trace(PATH) as trace:
        trace.add_experiment("fresh-kv", '{"layer": 2}', '{"restored": true}')


if __name__ == "__main__":
    main()
