"""The manifest of a trace: what it is, read before anything else of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from skipstone.errors import TraceError
from skipstone.quoting import shown
from skipstone.record.checksum import Checksums
from skipstone.record.damage import damaged
from skipstone.record.folder import plain_file, read_small
from skipstone.record.plain import from_json, json_object, text, to_json, whole
from skipstone.record.store import FORMAT, MANIFEST, MAX_MANIFEST, SCHEMA, Manifest
from skipstone.version import __version__


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a trace that this version can read.

    Raises:
        TraceError: there is none, it is damaged, or it is from a newer version.
    """
    if plain_file(folder / MANIFEST) is None:
        what = f"has no {MANIFEST}" if folder.exists() else "does not exist"
        raise TraceError(
            f"{str(folder)!r} is no trace: it {what}; give the folder that 'skipstone trace -o' "
            f"made"
        )
    try:
        found = read_small(folder / MANIFEST, MAX_MANIFEST)
        _check_version(folder, found)
        manifest = from_json(Manifest, found)
        _check(manifest)
    except (OSError, ValueError) as error:
        raise damaged(folder, MANIFEST, error) from None
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it with its checksum.

    Raises:
        OSError: the disk refuses.
    """
    signed = replace(manifest, checksum=_checksum(manifest))
    (folder / MANIFEST).write_text(to_json(signed) + "\n", encoding="utf-8")


def _check_version(folder: Path, found: str) -> None:
    """Refuse what is no trace or a newer one: a newer manifest may have other fields."""
    values = json_object(found)
    kind, schema, version = (values.get(name) for name in ("format", "schema", "skipstone"))
    if text(kind) != FORMAT:
        raise TraceError(
            f"{str(folder)!r} is no trace: its {MANIFEST} says {shown(kind)}, must say {FORMAT!r}"
        )
    if whole(schema) > SCHEMA:
        raise TraceError(
            f"the trace {str(folder)!r} has schema {shown(schema)} (written by skipstone "
            f"{text(version)[:40]}), and skipstone {__version__} reads up to {SCHEMA}; upgrade "
            f"skipstone to read it"
        )


def _check(manifest: Manifest) -> None:
    if manifest.schema == 1:
        if manifest.run or manifest.checksum:
            raise ValueError("schema 1 has no checksum")
        return
    if manifest.schema < 1:
        raise ValueError(f"schema is {manifest.schema}, must be 1 or more")
    if re.fullmatch("[0-9a-f]{16}", manifest.run) is None:
        raise ValueError(f"run is {shown(manifest.run)}, must be 16 hexadecimal digits")
    if manifest.checksum != _checksum(manifest):
        raise ValueError("its checksum is wrong")


def _checksum(manifest: Manifest) -> str:
    values = vars(manifest).items()
    row = (value for name, value in values if name != "checksum")
    return Checksums(manifest.run).row("manifest", *row).hex()
