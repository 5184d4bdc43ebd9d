"""Answers of code that cuts prompt and answer together into blocks, and decodes whole ones."""

from __future__ import annotations


def reaching(prompt_length: int, gen_length: int, block_length: int) -> int:
    """New positions up to the end of the last block that is begun."""
    length = prompt_length + gen_length
    return -(-length // block_length) * block_length - prompt_length
