"""Diagnoses and reports, in a process of their own, one at a time.

A diagnosis runs the model again, under settings of the whole process too: other threads, another
attention backend. In the process of a server that would change answers, and take steps from them.
So the commands ``skipstone diagnose`` and ``skipstone report`` are asked, behind whatever else
wants the processor; they load the model for themselves, and can be ended at any time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from skipstone.models import locate
from skipstone.models.load import Model
from skipstone.server.protocol.errors import OURS, AnswerError

_SOURCES = Path(__file__).parents[3]
"""Where this package is imported from."""
_NICE = 10
_LOADING_SECONDS = 120.0
"""For what is no experiment: to load the model, measure noise and draw a page."""
_RETRY_SECONDS = 10
_ERROR = "skipstone: error: "


class Examiner:
    """Examines traces for whoever comes first."""

    def __init__(self, model: Model, limit: float) -> None:
        """``limit`` is in seconds, of the experiments of one diagnosis."""
        self._model, self._limit = model, limit
        self._busy = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Nobody else examines anything meanwhile.

        Raises:
            AnswerError: somebody does.
        """
        if self._busy:
            raise AnswerError(
                429,
                "another diagnosis or report is being made; try again later",
                kind="rate_limit_error",
                code="diagnosis_busy",
                headers={"retry-after": f"{_RETRY_SECONDS}"},
            )
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def ask(self, folder: Path, command: str, *arguments: str) -> bytes:
        """What a command prints; it is ended if nobody waits for it any more.

        Args:
            folder: in which it runs, and finds its traces.
            command: of ``skipstone``; it takes ``--model`` and ``--time-limit``.
            arguments: of the command.

        Raises:
            AnswerError: it refuses, or takes too long.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "skipstone", command, *arguments),
            *(f"--model={self._name()}", f"--time-limit={self._limit:g}s"),
            cwd=folder,
            env=_environment(self._model),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            # Ctrl-C is the server's, which lets requests end.
            start_new_session=True,
        )
        try:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)
            async with asyncio.timeout(self._limit + _LOADING_SECONDS):
                printed, said = await process.communicate()
        except TimeoutError:
            raise AnswerError(
                504,
                f"no {command} after {self._limit + _LOADING_SECONDS:g} s; start the server with a "
                f"shorter --diagnosis-limit, or download the traces and run 'skipstone {command}'",
                kind=OURS,
                code="time_limit",
                headers={"x-should-retry": "false"},
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        # 1: the runs part.
        if process.returncode not in (0, 1):
            raise _refused(command, said.decode(errors="replace"))
        return printed

    def _name(self) -> str:
        """The folder of the model, as a process that runs elsewhere finds it."""
        return str(locate.find(self._model.name, local_files_only=True).resolve())


def _environment(model: Model) -> dict[str, str]:
    """As here, with the same code, threads and device; keys of clients are nobody else's."""
    # The commands take the first card that they see, and a processor if they see none.
    cards = {"CUDA_VISIBLE_DEVICES": ""} if model.network.device.type == "cpu" else {}
    own = {name: value for name, value in os.environ.items() if name != "SKIPSTONE_API_KEYS"}
    return {
        **own,
        **cards,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_SOURCES), own.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": f"{torch.get_num_threads()}",
    }


def _refused(command: str, said: str) -> AnswerError:
    """What the command said, in its last line."""
    why = said.rpartition(_ERROR)[2].strip() if _ERROR in said else "it was ended"
    return AnswerError(400, f"{command}: {why}", code="not_examined")
