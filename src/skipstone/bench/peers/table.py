"""Which peers there are."""

from __future__ import annotations

from skipstone.bench.peers.base import Checkout, PeerCode
from skipstone.bench.peers.dream import DREAM_CODE
from skipstone.bench.peers.fast_dllm import FAST_DLLM_CODE
from skipstone.bench.peers.sdar import SDAR_CODE
from skipstone.errors import ConfigError, nearest
from skipstone.quoting import shown

PEERS: dict[str, PeerCode] = {code.name: code for code in (FAST_DLLM_CODE, DREAM_CODE, SDAR_CODE)}


def parse_peer(text: str) -> Checkout:
    """Parse ``NAME=PATH``.

    Raises:
        ConfigError: the peer is unknown, its files are not there, or what it needs is missing.
    """
    name, equals, path = text.partition("=")
    if name not in PEERS:
        raise ConfigError(f"peer {shown(name)} is unknown; {nearest(name, PEERS)}")
    if not (equals and path):
        raise ConfigError(f"--peer is {shown(text)}, must be {name}=PATH, a checkout of its code")
    return Checkout(PEERS[name], PEERS[name].find(path))
