"""Breaks text, bytes and JSON in the ways that users, disks and attackers do."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

Json = object

ODD_NUMBERS = (
    *("0", "-1", "1e400", "-1e400", "9" * 400, str(10**18), str(2**63), "1e-400", "0.0", "-0"),
    *("nan", "inf", "-inf", "1_000", "0x10", "1e3", "²", "١٢", "½", "1,5", "+3", "1.5", "00007"),
)
ODD_TEXTS = (
    *("", " ", "x" * 300, "y" * 5000, "\x1b[2J\x1b[31mred", "é" * 150, "\u202eevil", "\udcff"),
    *("a=b", "=", "a=", ",", ":", "a:b:c", "{}", "[[", "%s%n", "None", "true", "~", "-", "--"),
    *("../../etc/passwd", "a\nb", "\ufeff", "a\u2028b", "\x85", "\x00"[:0], "'", '"', "\\", "*"),
    *("http://127.0.0.1:9/x", "//x", "C:\\x", "$HOME", "`id`", "{{ 7*7 }}", "<script>", "😀" * 80),
)
ODD_JSON: tuple[Json, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, 1e308, 10**400, 10**18, 2**31, 2**63, -(2**63), 10**6),
    *(float("nan"), float("inf"), "", "x" * 300, "\x1b[2J", "\ud800", "nan", "1", "0", "é\u202e"),
    *([], {}, [None], [[]], [{}], {"": ""}, {"a": {"b": [1, 2]}}, [1] * 300, ["x"], ["a", "b"]),
)


def odd_text(random: Random) -> str:
    """A number or a text that no author had in mind."""
    return random.choice(random.choice((ODD_NUMBERS, ODD_TEXTS)))


# --- bytes ----------------------------------------------------------------------------------------


def flipped(content: bytes, random: Random, bits: int = 1) -> bytes:
    """Some bits are the other way round; at least one is."""
    if not content:
        return b"\x01"
    changed = bytearray(content)
    for place in random.sample(range(len(content)), min(bits, len(content))):
        changed[place] ^= 1 << random.randrange(8)
    return bytes(changed)


def _truncated(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _inserted(content: bytes, random: Random) -> bytes:
    at = random.randrange(len(content) + 1)
    return content[:at] + random.randbytes(random.choice((1, 7, 64))) + content[at:]


def _zeroed(content: bytes, random: Random) -> bytes:
    at, size = random.randrange(len(content) + 1), random.choice((1, 16, 512))
    return content[:at] + bytes(len(content[at : at + size])) + content[at + size :]


def _swapped(content: bytes, random: Random) -> bytes:
    at = random.randrange(len(content) + 1)
    return content[at:] + content[:at]


def _repeated(content: bytes, random: Random) -> bytes:
    return content * random.choice((2, 3, 50))


BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (
    flipped,
    lambda content, random: flipped(content, random, 8),
    *(_truncated, _inserted, _zeroed, _swapped, _repeated),
    lambda content, random: b"",
    lambda content, random: b"\xef\xbb\xbf" + content,
    lambda content, random: content.replace(b"\n", b"\r\n"),
    lambda content, random: content.decode("utf-8", "replace").encode("utf-16"),
    lambda content, random: random.randbytes(200),
)


def broken_bytes(content: bytes, random: Random) -> bytes:
    """Changed in one way, or in a few."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        content = random.choice(BYTES)(content, random)
    return content


# --- JSON -----------------------------------------------------------------------------------------


def broken_json(value: Json, random: Random) -> Json:
    """A copy with one to three nodes changed."""
    changed = json.loads(json.dumps(value))
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        changed = _changed(changed, random)
    return changed


def json_bytes(value: Json, random: Random) -> bytes:
    """As a file: mostly plain, sometimes with a key twice or nested beyond reason."""
    text = json.dumps(value, ensure_ascii=random.random() < 0.5)
    luck = random.random()
    if luck < 0.04 and text.startswith("{") and len(text) > 2:
        text = text[:-1] + "," + text[1:]
    elif luck < 0.06:
        text = text.replace(":", ":" + "[" * 100_000, 1)
    elif luck < 0.08:
        text = text.replace("1", "9" * 5000, 1)
    return text.encode("utf-8", "surrogatepass")


def _changed(value: Json, random: Random) -> Json:
    """One node below, or this one, replaced."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice(list(value))
        luck = random.random()
        if luck < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if luck < 0.25:
            return {**value, random.choice((key + "_", key.upper(), "x" * 300, "")): value[key]}
        if luck < 0.35:
            other = random.choice(list(value))
            return {**value, key: value[other], other: value[key]}
        return {**value, key: _changed(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        luck = random.random()
        if luck < 0.15:
            return value[:at] + value[at + 1 :]
        if luck < 0.25:
            return [*value[:at], value[at], *value[at:]]
        return [*value[:at], _changed(value[at], random), *value[at + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and random.random() < 0.5:
        return random.choice((value + 1, value - 1, -value, value * 1000, str(value), [value]))
    if isinstance(value, str) and random.random() < 0.3:
        return random.choice((value * 2, value[:-1], value.upper(), value + "\x1b[1m", [value]))
    return random.choice(ODD_JSON)
