"""Model folders: settings, tokenizer and weights, broken as JSON or byte by byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from skipstone import load
from tests.fuzz.case import Kind, Outcome, Scene, call, command, silent
from tests.fuzz.mutate import broken_bytes, broken_json, flipped, json_bytes
from tests.fuzz.sound import LENGTHS

_FINGERPRINTS = dict[Path, str]()


def _decoded(scene: Scene) -> Outcome:
    """The changed model answers, or says why not."""
    return command(["generate", "hi", "--model", str(scene.here / "model"), *LENGTHS])


def _file(name: str, share_of_json: float) -> Kind:
    def act(scene: Scene) -> Outcome:
        path = scene.copy("model") / name
        content = path.read_bytes()
        if scene.random.random() < share_of_json:
            content = json_bytes(broken_json(json.loads(content), scene.random), scene.random)
        else:
            content = broken_bytes(content, scene.random)
        path.write_bytes(content)
        return _decoded(scene)

    return Kind(name, act, 7)


def _header(scene: Scene) -> Outcome:
    """The header of a safetensors file lies, or the file is cut off."""
    random = scene.random
    path = scene.copy("model") / "model.safetensors"
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    luck = random.random()
    if luck < 0.7:
        text = json_bytes(broken_json(header, random), random)
        told = len(text) if random.random() < 0.8 else random.choice((0, 2**63, len(text) + 1, 1))
        content = struct.pack("<Q", told) + text + data
    elif luck < 0.85:
        content = content[: random.randrange(len(content))]
    else:
        content = broken_bytes(content[: 8 + size], random) + data
    path.write_bytes(content)
    return _decoded(scene)


def _index(scene: Scene) -> Outcome:
    """The list of shards names others, or one of them is broken."""
    random = scene.random
    folder = scene.copy("shards")
    index = folder / "model.safetensors.index.json"
    if random.random() < 0.7:
        index.write_bytes(json_bytes(broken_json(json.loads(index.read_bytes()), random), random))
    else:
        shard = random.choice(sorted(folder.glob("model-*.safetensors")))
        shard.write_bytes(broken_bytes(shard.read_bytes(), random))
    folder.rename(scene.here / "model")
    return _decoded(scene)


def _weights(scene: Scene) -> Outcome:
    """Changed weights have another fingerprint, whichever they are: a run is known by it."""
    sound = scene.sound / "model"
    if sound not in _FINGERPRINTS:
        _FINGERPRINTS[sound] = load(sound).fingerprint
    path = scene.copy("model") / "model.safetensors"
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    start = 8 + size
    path.write_bytes(content[:start] + flipped(content[start:], scene.random))
    seen = list[str]()
    outcome = call(lambda: seen.append(load(path.parent).fingerprint))
    if seen == [_FINGERPRINTS[sound]]:
        return silent(outcome, "a changed weight has the fingerprint of the sound model")
    return outcome


KINDS = (
    _file("config.json", 0.85),
    _file("tokenizer.json", 0.6),
    _file("tokenizer_config.json", 0.8),
    Kind("safetensors header", _header, 8),
    Kind("shards", _index, 4),
    Kind("weights", _weights, 4),
)
