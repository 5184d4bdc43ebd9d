"""The command line: finds the command, and turns every error into one line."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import click

from skipstone import __version__
from skipstone.cli.compare import compare
from skipstone.cli.env import env
from skipstone.cli.generate import generate
from skipstone.cli.policies import policies
from skipstone.errors import SkipstoneError, nearest

EXIT_ERROR = 2


class Commands(click.Group):
    """A group that names the nearest command when one is unknown."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or say which one was meant."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            raise click.UsageError(
                f"command {name!r} is unknown; {nearest(name, self.commands)}", ctx
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="skipstone")
def skipstone() -> None:
    """Run diffusion language models fast, and see what each shortcut changed."""


for command in (generate, compare, policies, env):
    skipstone.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line. Returns the exit code: 0, 1 (compare: different) or 2 (error)."""
    try:
        code = skipstone.main(list(arguments), prog_name="skipstone", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_ERROR
    except click.NoSuchOption as error:
        return _fail(_unknown_option(error), arguments)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "skipstone"
        message = error.format_message().rstrip(".")
        return _fail(f"{message}. See '{command} --help'.", arguments)
    except click.ClickException as error:
        return _fail(error.format_message(), arguments)
    except SkipstoneError as error:
        return _fail(str(error), arguments)
    except Exception as error:
        # Not the user's mistake: still one line, and a way to see the rest.
        return _fail(
            f"internal error: {type(error).__name__}: {error}; please report it with the output of "
            f"--debug",
            arguments,
        )
    return code if isinstance(code, int) else 0


def _unknown_option(error: click.NoSuchOption) -> str:
    """Name the nearest option that the command does have."""
    params = error.ctx.command.params if error.ctx is not None else []
    known = [name for param in params for name in (*param.opts, *param.secondary_opts)]
    options = [name for name in known if name.startswith("--")]
    return f"option {error.option_name!r} is unknown; {nearest(error.option_name, options)}"


def _fail(message: str, arguments: Sequence[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exc()
    line = " ".join(message.split())
    print(f"skipstone: error: {line}", file=sys.stderr)
    return EXIT_ERROR


def main() -> None:
    """Entry point of the ``skipstone`` script."""
    sys.exit(run(sys.argv[1:]))
