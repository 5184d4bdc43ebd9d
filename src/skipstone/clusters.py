"""A Ray cluster: one that there is, or one of this machine's own, which no other one reaches."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from skipstone.errors import ConfigError
from skipstone.extras import missing
from skipstone.quoting import shown

# Off on Linux, this lets a cluster of one machine listen on its loopback alone.
_MANY_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_LISTENS_SECONDS = 10.0
# HTTP/2 (RFC 9113, section 3.4), which gRPC speaks: a client begins with these words and its
# settings, here none, and the first frame that the server sends has settings of its own.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_HEAD, _FRAME_TYPE, _SETTINGS = 9, 3, 4


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
    there = address or os.environ.get("RAY_ADDRESS") or None
    if there is None:
        # Read when Ray is imported: whoever has imported it before has chosen.
        os.environ.setdefault(_MANY_MACHINES, "0")
    else:
        _check_listens(there)
    try:
        import ray
    except ImportError:
        raise missing("ray", purpose, extra) from None
    if ray.is_initialized():
        yield
        return
    try:
        with _own_sigterm():
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


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Give SIGTERM back to whoever handles it here; Ray takes it for itself when it is set up."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # Only the main thread may, and in others Ray does not either.
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _check_listens(address: str) -> None:
    """Refuse an address where no cluster can be; Ray itself asks there for three minutes.

    Raises:
        ConfigError: nobody listens there, or something that does not speak gRPC.
    """
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not port.isdecimal():
        return  # such as auto: Ray finds it
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _LISTENS_SECONDS) as there:
            grpc = _is_encrypted() or _speaks_grpc(there)
    except (OSError, UnicodeError, OverflowError) as error:
        raise _absent(address, getattr(error, "strerror", None) or f"{error}") from None
    if not grpc:
        raise _absent(address, "what listens there does not speak gRPC, as Ray does")


def _is_encrypted() -> bool:
    """Whether clusters are asked over TLS, as Ray reads it."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"}


def _speaks_grpc(there: socket.socket) -> bool:
    """Whether the other end takes a greeting in HTTP/2; False also where it says nothing."""
    try:
        there.sendall(_GREETING)
        with there.makefile("rb") as answer:
            head = answer.read(_FRAME_HEAD)
    except OSError:
        return False
    return len(head) == _FRAME_HEAD and head[_FRAME_TYPE] == _SETTINGS


def _absent(address: str, why: str) -> ConfigError:
    return ConfigError(
        f"no Ray cluster answers at {shown(address)} ({why}); give the address of one "
        f"(--ray-address, RAY_ADDRESS), or none to start one here"
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
