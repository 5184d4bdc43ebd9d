"""Writes the parts of docs/ that follow from the code, or checks that they are up to date.

``python -m docs.generate`` writes, ``--check`` fails if something is stale.
"""

import sys
from pathlib import Path

from docs.benchmarks import benchmark_page
from docs.fields import field_page
from docs.models import models_page
from skipstone.outputs import write_whole
from skipstone.policies import KINDS, field_defaults

DOCS = Path(__file__).parent


def policy_table() -> str:
    """Every policy with its settings and defaults."""
    lines = [
        "# Policies",
        "",
        "Generated from the policy classes; `make docs` writes it again. On the command line and",
        "in run specs a policy is `name` or `name:key=value,key=value`; a value alone is",
        "that of its first setting: `threshold:0.9`, `fixed:random`.",
        "",
        "| policy | what it does | settings |",
        "| --- | --- | --- |",
    ]
    for kind in KINDS:
        for name, policy in kind.built_in.items():
            about = (policy.__doc__ or "").strip().splitlines()[0]
            settings = [f"`{key}={value}`" for key, value in field_defaults(policy).items()]
            lines.append(f"| `{kind.name}={name}` | {about} | {', '.join(settings)} |")
    return "\n".join(lines) + "\n"


PAGES = {
    "policies.md": policy_table,
    "models.md": models_page,
    "trace-fields.md": field_page,
    "benchmarks.md": benchmark_page,
}


def main() -> int:
    """Write the pages, or list the stale ones."""
    stale = list[str]()
    for name, write in PAGES.items():
        path, text = DOCS / name, write()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            write_whole(path, text)
    if stale and "--check" in sys.argv:
        print(f"stale: {', '.join(stale)}; run: make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
