"""The bytes that single tokens stand for: a character may take several tokens.

A byte-level vocabulary writes each byte as a printable character: the printable ones of Latin-1 as
themselves, the others as those from U+0100 on, in order (the reversible code of GPT-2).
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders

_ITSELF = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in set(_ITSELF)]
_BYTES = {chr(byte): byte for byte in _ITSELF} | {
    chr(0x100 + index): byte for index, byte in enumerate(_OTHERS)
}


def bytes_of(tokenizer: Tokenizer, token: int) -> bytes | None:
    """What an ordinary token adds to a text, as UTF-8; None if its tokenizer does not say so.

    Args:
        tokenizer: whose token.
        token: its id; one that it does not have adds nothing.
    """
    piece = tokenizer.id_to_token(token)
    if piece is None:
        return b""
    if isinstance(tokenizer.decoder, decoders.ByteLevel):
        spelled = [_BYTES.get(character) for character in piece]
        return None if None in spelled else bytes(byte for byte in spelled if byte is not None)
    text = tokenizer.decode([token], skip_special_tokens=False)
    return None if "\ufffd" in text else text.encode()
