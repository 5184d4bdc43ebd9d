"""The command line: finds the command, and turns every error into one line.

A command is imported when it is called, and torch by its body: help, completion in a shell, a wrong
option and whatever only reads traces do not wait for it.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple, cast

import click
from click.shell_completion import CompletionItem

from skipstone.cli.escape import printable
from skipstone.errors import SkipstoneError, nearest
from skipstone.version import __version__

EXIT_ERROR = 2


class Entry(NamedTuple):
    """Where a command lives, and what the list of commands says of it."""

    home: str
    """``module:attribute``"""
    help: str


COMMANDS = {
    "audit": Entry("skipstone.cli.audit:audit_command", "Pass if two settings agree often enough."),
    "bench": Entry("skipstone.cli.bench:bench", "Measure how fast the engine is here."),
    "compare": Entry("skipstone.cli.compare:compare", "Find the first step where two runs part."),
    "diff": Entry("skipstone.cli.diff:diff_command", "Compare two traces of one prompt."),
    "diagnose": Entry("skipstone.cli.diagnose:diagnose", "Say why two runs part, and prove it."),
    "env": Entry("skipstone.cli.env:env", "Show versions, devices and threads."),
    "export": Entry("skipstone.cli.export:export", "Write a trace as Parquet or for Perfetto."),
    "generate": Entry("skipstone.cli.generate:generate", "Decode a prompt and print the answer."),
    "policies": Entry("skipstone.cli.policies:policies", "List cache, unmask and skip policies."),
    "report": Entry("skipstone.cli.report:report", "Write a page about traces of one prompt."),
    "roofline": Entry("skipstone.cli.roofline:roofline", "Say from which batch a skip can pay."),
    "show": Entry("skipstone.cli.show:show", "Show what is in a trace."),
    "step": Entry("skipstone.cli.step:step", "Run one recorded step under several settings."),
    "sweep": Entry("skipstone.cli.sweep:sweep_command", "Find the fastest setting that is safe."),
    "trace": Entry("skipstone.cli.trace:trace", "Decode a prompt and write a trace of the run."),
}


class Commands(click.Group):
    """Imports a command when it is asked for, and names the nearest one if it is unknown."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].home.partition(":")
        return cast("click.Command", getattr(importlib.import_module(module), attribute))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command without importing any, or an option of the group."""
        begun = [name for name in sorted(COMMANDS) if name.startswith(incomplete)]
        commands = [CompletionItem(name, help=COMMANDS[name].help) for name in begun]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].help) for name in sorted(COMMANDS)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or say which one was meant."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            raise click.UsageError(f"command {name!r} is unknown; {nearest(name, COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="skipstone")
def skipstone() -> None:
    """Run diffusion language models fast, and see what each shortcut changed."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line. Returns the exit code: 0, 1 (a check failed) or 2 (error)."""
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
    line = printable(" ".join(message.split()))
    print(f"skipstone: error: {line}", file=sys.stderr)
    return EXIT_ERROR


def main() -> None:
    """Entry point of the ``skipstone`` script."""
    sys.exit(run(sys.argv[1:]))
