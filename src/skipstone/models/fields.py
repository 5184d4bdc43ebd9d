"""Typed access to a config.json, with errors that name the file, the key and the value.

Every key is one of four things. It is *read* into the ``ModelConfig``, under each of its published
spellings; it is *computed in one way only*, so that any other value is refused by name; it *changes
nothing* at inference; or it is *unknown*, and then refused unless it is null, since it might decide
the arithmetic. Two spellings that disagree are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skipstone.errors import CheckpointError, nearest
from skipstone.files import Json
from skipstone.models.keys import HARMLESS, MISSING, ROTARY_TABLES, Keys
from skipstone.quoting import cut, shown
from skipstone.text.mask import mask_id

# More than any count or width of a model: products of three still are numbers of bytes.
_WIDEST = 1 << 24
# The rotary tables have this many rows; no model comes near it, and a typing error must not take
# all memory.
LONGEST = 1 << 20


class Fields:
    """One config.json, read as one architecture reads it."""

    def __init__(self, path: Path, values: Json, keys: Keys, title: str) -> None:
        """What the file says.

        Args:
            path: of the file, for messages.
            values: what is in it.
            keys: which keys the architecture reads.
            title: what people call it, for messages.
        """
        self._path, self._values, self._keys = path, values, keys
        self._advice = f"use a {title} checkpoint"

    def integer(
        self, key: str, default: int | None = None, least: int = 1, most: int = _WIDEST
    ) -> int:
        """A whole number between ``least`` and ``most``; it has to be written without a default.

        Raises:
            CheckpointError: it is missing, or another value.
        """
        name, value = self._get(key, default)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and least <= value <= most:
            return value
        upper = f" and at most {most}" if whole and value > most else ""
        raise self._wrong(name, value, f"an integer of at least {least}{upper}")

    def number(self, key: str) -> float:
        """A positive number that has to be written.

        Raises:
            CheckpointError: it is missing, or another value.
        """
        return self._number(*self._get(key, None))

    def flag(self, key: str) -> bool:
        """A flag that has to be written; null is false, as in the published code.

        Raises:
            CheckpointError: it is missing, or another value.
        """
        written = any(name in self._values for name in self._names(key))
        name, value = self._get(key, False if written else None)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def divisor(self, key: str, of: str, default: int) -> int:
        """A whole number that divides another one.

        Args:
            key: of the number.
            of: the key of the other one.
            default: where it is not written.

        Raises:
            CheckpointError: it does not, or is another value.
        """
        found, whole = self.integer(key, default), self.integer(of)
        if whole % found:
            raise self.refuse(f"{of} {whole} is not a multiple of {key} {found}; check both")
        return found

    def theta(self) -> float:
        """The base of the rotary embedding, which may lie in a table of its own.

        Raises:
            CheckpointError: it is missing or no number, or positions are scaled.
        """
        tables = {name: self._rope_table(name) for name in sorted(ROTARY_TABLES)}
        inner = {f"{n}.rope_theta": t["rope_theta"] for n, t in tables.items() if "rope_theta" in t}
        return self._number(*self._one(self._spelled("rope_theta") | inner, "rope_theta", None))

    def mask_id(self, text: str) -> int:
        """``mask_token_id``, or else the id that the tokenizer's files give the mask token.

        Args:
            text: of the token, where they do not say which one it is.

        Raises:
            CheckpointError: neither says it.
        """
        written = self.stated("mask_token_id") is not None
        found = None if written else mask_id(self._path.parent, text)
        return self.integer("mask_token_id", found, least=0)

    def stated(self, key: str) -> object:
        """The value of a key under any of its spellings; None if it is absent or null."""
        return next(iter(self._spelled(key).values()), None)

    def refuse(self, problem: str) -> CheckpointError:
        """An error about this file."""
        return CheckpointError(f"{self._path}: {problem}")

    def contradiction(self, left: str, right: str) -> CheckpointError:
        """An error about two entries that cannot both be true."""
        return self.refuse(
            f"{left} and {right} contradict each other; keep the one that the weights were trained "
            f"with"
        )

    def check_supported(self) -> None:
        """Refuse values of another meaning than the one that is computed.

        Raises:
            CheckpointError: there are some; the message lists them.
        """
        wrong = [
            f"{key}={shown(self._values[key])} (must be {_wanted(wanted)})"
            if key in self._values
            else f"{key} is missing (must be {_wanted(wanted)})"
            for key, wanted in self._keys.supported.items()
            if not any(is_same(self._values.get(key, MISSING), value) for value in wanted)
        ]
        if wrong:
            raise self.refuse(f"unsupported settings: {', '.join(wrong)}; {self._advice}")

    def check_unknown(self) -> None:
        """Refuse keys that nobody knows.

        Raises:
            CheckpointError: there is one.
        """
        keys = self._keys
        known = keys.read | keys.harmless | HARMLESS | keys.supported.keys()
        for key, value in self._values.items():
            if value is None or key in known or key.startswith("_") or key.endswith("_version"):
                continue
            close = nearest(key, keys.read | keys.supported.keys())
            meant = f" ({close})" if close.startswith("did") else ""
            raise self.refuse(f"{cut(key)}={shown(value)} is unknown{meant}; {self._unknown}")

    @property
    def _unknown(self) -> str:
        return (
            f"it might change what the model computes: if it does not, remove it from config.json; "
            f"else {self._advice}"
        )

    def _rope_table(self, name: str) -> dict[str, object]:
        """The settings of the rotary embedding, of which only the plain kind is computed."""
        table = self._values.get(name)
        if table is None:
            return {}
        if not isinstance(table, dict):
            raise self._wrong(name, table, "null or a table with rope_type and rope_theta")
        plain = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1, "factor": 1}
        stated = {key: value for key, value in table.items() if value is not None}
        for key, value in stated.items():
            if key in plain and not is_same(value, plain[key]):
                raise self.refuse(
                    f"unsupported settings: {name} has {key}={shown(value)} (must be "
                    f"{plain[key]!r}); scaled rotary embeddings are not computed, "
                    f"{self._advice}"
                )
            if key not in (*plain, "rope_theta", "original_max_position_embeddings"):
                raise self.refuse(
                    f"{name} has {cut(key)}={shown(value)}, which is unknown; {self._unknown}"
                )
        return stated

    def _get(self, key: str, default: object) -> tuple[str, object]:
        return self._one(self._spelled(key), key, default)

    def _spelled(self, key: str) -> dict[str, object]:
        """The values of ``key`` by spelling; files also write null for what they leave open."""
        return {n: self._values[n] for n in self._names(key) if self._values.get(n) is not None}

    def _names(self, key: str) -> tuple[str, ...]:
        return (key, *self._keys.spellings.get(key, ()))

    def _one(self, spelled: dict[str, object], key: str, default: object) -> tuple[str, object]:
        """Name and value of the one thing that all spellings say."""
        (name, value), *others = spelled.items() or [(key, default)]
        for other, contrary in others:
            if not is_same(contrary, value):
                said = f"{name}={shown(value)}", f"{other}={shown(contrary)}"
                raise self.contradiction(*said)
        return name, value

    def _number(self, key: str, value: object) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        # Not every whole number fits into a float.
        if number and 0 < value < 1e300:
            return float(value)
        raise self._wrong(key, value, "a positive, finite number")

    def _wrong(self, key: str, value: object, rule: str) -> CheckpointError:
        found = "missing" if value is None else shown(value)
        return self.refuse(
            f"{key} is {found}, must be {rule}; copy config.json from the published checkpoint"
        )


def is_same(stated: object, meant: object) -> bool:
    """Whether two values of a file are one; true is no number there, and 1 does not say true."""
    return stated == meant and isinstance(stated, bool) == isinstance(meant, bool)


def _wanted(values: Sequence[object]) -> str:
    """The values of a key that mean what is computed."""
    first = next(value for value in values if value is not MISSING)
    return "null" if first is None else repr(first)
