"""``python -m skipstone`` is the command line."""

from skipstone.cli.main import main

if __name__ == "__main__":
    main()
