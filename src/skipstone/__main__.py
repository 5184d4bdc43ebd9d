"""The ``skipstone`` script, and ``python -m skipstone``."""

from __future__ import annotations

from skipstone.cli.interrupt import obey_ctrl_c


def main() -> None:
    """Run the command line; Ctrl-C is obeyed from here on, while it is still imported."""
    obey_ctrl_c()
    from skipstone.cli.main import main

    main()


if __name__ == "__main__":
    main()
