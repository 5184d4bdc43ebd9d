"""Renders each template of ``attacks.jinja`` in a process of its own, forked from this one.

Prints one JSON line for each: seconds of processor time, megabytes of growth, and the message.
Linux only: the peak is read from ``/proc``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from skipstone.errors import SkipstoneError
from skipstone.text import Text
from tests.text.checkpoints import BOS, EOS, FOLDERS, MASK, VOCAB, write

ATTACKS = (Path(__file__).parent / "attacks.jinja").read_text("utf-8").splitlines()


def peak_megabytes() -> int:
    """The most memory that this process has held since its mark was set back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def measured(template: str, directory: Path, started: float) -> list[object]:
    """Load a folder with the template, encode one prompt, and say what that took."""
    before = peak_megabytes()
    (directory / "chat_template.jinja").write_text(template, "utf-8")
    try:
        ids = Text.read(directory, MASK, EOS, VOCAB).encode("hello")
        message = f"accepted: {len(ids)} ids, BOS {BOS in ids}"
    except SkipstoneError as error:
        message = str(error)
    except BaseException as error:
        message = f"not refused on purpose: {error!r}"[:300]
    return [time.process_time() - started, peak_megabytes() - before, message]


def main(directory: Path) -> None:
    """Measure all; a process that is killed says so by what it does not say."""
    write(FOLDERS["config"], directory)
    Text.read(directory, MASK, EOS, VOCAB)
    for template in ATTACKS:
        sys.stdout.flush()
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            if status:
                print(json.dumps([99, 9999, f"ended with status {status}"]))
            continue
        Path("/proc/self/clear_refs").write_text("5")
        print(json.dumps(measured(template, directory, time.process_time())), flush=True)
        os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
