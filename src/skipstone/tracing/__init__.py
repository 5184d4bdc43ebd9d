"""From a run to a record: the recorder makes the only copies from device to host."""

from skipstone.tracing.record.recorder import Recorder

__all__ = ["Recorder"]
