"""A Ray cluster: one that there is, or one of this machine's own, which no other one reaches."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from skipstone.errors import ConfigError
from skipstone.extras import missing
from skipstone.quoting import shown

# Off on Linux, this lets a cluster of one machine listen on its loopback alone.
_MANY_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_LISTENS_SECONDS = 10.0


@contextmanager
def cluster(
    purpose: str, *, extra: str, address: str | None = None, cpus: int | None = None
) -> Iterator[None]:
    """Be connected to a cluster until the end of the block.

    Args:
        purpose: what needs it, as the subject of messages.
        extra: what to install where Ray is absent.
        address: of one that there is, as Ray has it (``auto``, ``host:port``); None: that of
            ``RAY_ADDRESS``, or else one is started here, and ended with the block.
        cpus: of one that is started here; None: those that there are.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """
    # Ray reports its use over the network unless this is set.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    there = address or os.environ.get("RAY_ADDRESS")
    if there is None:
        # Read when Ray is imported: whoever has imported it before has chosen.
        os.environ.setdefault(_MANY_MACHINES, "0")
    try:
        import ray
    except ImportError:
        raise missing("ray", purpose, extra) from None
    if ray.is_initialized():
        yield
        return
    if there is not None:
        _check_listens(there)
    try:
        ray.init(
            address=there or "local",
            num_cpus=None if there else cpus,
            include_dashboard=None if there else False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        if there is None:
            raise
        raise _absent(there, str(error).partition("\n")[0]) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_listens(address: str) -> None:
    """Refuse at once an address where nobody listens; Ray itself asks there for three minutes.

    Raises:
        ConfigError: nobody does.
    """
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not port.isdecimal():
        return  # such as auto: Ray finds it
    try:
        socket.create_connection((host.strip("[]"), int(port)), _LISTENS_SECONDS).close()
    except (OSError, UnicodeError, OverflowError) as error:
        raise _absent(address, getattr(error, "strerror", None) or f"{error}") from None


def _absent(address: str, why: str) -> ConfigError:
    return ConfigError(
        f"no Ray cluster answers at {shown(address)} ({why}); give the address of one, or none to "
        f"start one here"
    )


def gpus_for(device: str) -> int:
    """GPUs that a process takes in the cluster that this process is connected to.

    Args:
        device: as ``--device`` has it.

    Raises:
        ConfigError: it is a certain GPU.
    """
    if device.startswith("cuda:"):
        raise ConfigError(
            f"device is {shown(device)}, but which GPU a process gets is chosen by Ray; write cuda"
        )
    return int(device == "cuda" or (device == "auto" and _there("GPU") > 0))


def workers_of(gpus: int) -> int:
    """Processes for which there is room in that cluster, if each takes so many GPUs, or a CPU."""
    return max(1, _there("GPU") // gpus if gpus else _there("CPU"))


def _there(kind: str) -> int:
    import ray

    return int(ray.cluster_resources().get(kind, 0))
