"""The command line: finds the command, and turns every error into one line.

A command is imported when it is called, and torch by its body: help, completion in a shell, a wrong
option and whatever only reads traces do not wait for it.
"""

from __future__ import annotations

import importlib
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import NamedTuple, TextIO, cast

import click
from click.shell_completion import CompletionItem

from skipstone.cli.interrupt import EXIT_INTERRUPTED, ignore_ctrl_c, obey_ctrl_c
from skipstone.cli.streams import ReaderGoneError, StdoutError, drop_output, guard_streams
from skipstone.cli.terminal import aside, complain, note
from skipstone.errors import SkipstoneError, nearest
from skipstone.quoting import shown
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
    "leaderboard": Entry(
        "skipstone.cli.leaderboard:leaderboard", "Compare every policy, and say what it changed."
    ),
    "models": Entry("skipstone.cli.models:models", "List the models that run, or say all of one."),
    "policies": Entry("skipstone.cli.policies:policies", "List cache, unmask and skip policies."),
    "report": Entry("skipstone.cli.report:report", "Write a page about traces of one prompt."),
    "roofline": Entry("skipstone.cli.roofline:roofline", "Say from which batch a skip can pay."),
    "serve": Entry("skipstone.cli.serve:serve", "Answer OpenAI's clients over HTTP."),
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
            raise click.UsageError(
                f"command {shown(name)} is unknown; {nearest(name, COMMANDS)}", ctx
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="skipstone")
def skipstone() -> None:
    """Run diffusion language models fast, and see what each shortcut changed."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Returns:
        The exit code: 0, what a command says (1: a check failed), 2 (error) or 130 (interrupted).
    """
    before = warnings.showwarning
    warnings.showwarning = _show_warning
    try:
        code = _answered(arguments)
        sys.stdout.flush()
    except ReaderGoneError:
        # Whoever read the output has seen enough.
        drop_output()
        return 0
    except StdoutError as error:
        drop_output()
        complain(str(error))
        return EXIT_ERROR
    finally:
        warnings.showwarning = before
    return code


def _answered(arguments: Sequence[str]) -> int:
    """The exit code of a command, or what is said about its error."""
    try:
        if any("\0" in argument for argument in arguments):
            raise click.UsageError("an argument holds a NUL character; remove it")
        code = skipstone.main(list(arguments), prog_name="skipstone", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (ReaderGoneError, StdoutError):
        raise
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", arguments)
        return EXIT_INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_ERROR
    except Exception as error:
        return _fail(_message(error), arguments)
    return code if isinstance(code, int) else 0


def _message(error: Exception) -> str:
    """An error in one line, with its remedy."""
    if isinstance(error, click.NoSuchOption):
        return _unknown_option(error)
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx is not None else "skipstone"
        return f"{error.format_message().rstrip('.')}. See '{command} --help'."
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, SkipstoneError):
        return str(error)
    if _is_out_of_memory(error):
        return "there is not enough memory for this; use a smaller model, batch or gen_length"
    # Not the user's mistake: still one line, and a way to see the rest.
    return (
        f"internal error: {type(error).__name__}: {error}; please report it with the output of "
        f"--debug"
    )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, a card, or torch's allocator on a CPU ran out; torch may not be imported."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _unknown_option(error: click.NoSuchOption) -> str:
    """Name the nearest option that the command does have."""
    params = error.ctx.command.params if error.ctx is not None else []
    known = [name for param in params for name in (*param.opts, *param.secondary_opts)]
    options = [name for name in known if name.startswith("--")]
    return f"option {shown(error.option_name)} is unknown; {nearest(error.option_name, options)}"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of the engine, for a person who knows nothing of its source lines."""
    note(str(message))


def _fail(message: str, arguments: Sequence[str]) -> int:
    if "--debug" in arguments:
        for line in traceback.format_exc().splitlines():
            aside(line)
    complain(message)
    return EXIT_ERROR


def main() -> None:
    """Run this process's command line, and end it."""
    obey_ctrl_c()
    try:
        guard_streams()
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    ignore_ctrl_c()
    sys.exit(code)
