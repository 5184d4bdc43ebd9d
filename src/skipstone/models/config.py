"""Read config.json: what the published code would compute, or why Skipstone does not."""

from __future__ import annotations

from pathlib import Path

from skipstone.files import read_json
from skipstone.models.base import ModelConfig
from skipstone.models.family import find_entry
from skipstone.models.fields import Fields
from skipstone.models.folder import CONFIG, check_folder


def read_config(directory: Path) -> ModelConfig:
    """Read config.json as its architecture reads it.

    Raises:
        CheckpointError: the folder holds no model, the file is missing or broken, names an
            architecture that is not in the table, or has a key that is not computed as it says.
    """
    check_folder(directory)
    path = directory / CONFIG
    values = read_json(path)
    entry = find_entry(path, values)
    fields = Fields(path, values, entry.keys, entry.title)
    fields.check_supported()
    config = entry.read(fields)
    _check_ids(config, fields)
    fields.check_unknown()
    return config


def _check_ids(config: ModelConfig, fields: Fields) -> None:
    """Refuse special ids that no architecture can have."""
    for key, value in (("mask_token_id", config.mask_id), ("eos_token_id", config.eos_id)):
        if value >= config.vocab_size:
            raise fields.refuse(
                f"{key} is {value}, outside the vocabulary of {config.vocab_size}; copy "
                f"config.json from the published checkpoint"
            )
    if config.mask_id == config.eos_id:
        raise fields.refuse(
            f"mask_token_id and eos_token_id are both {config.mask_id}, must differ; copy "
            f"config.json from the published checkpoint"
        )
