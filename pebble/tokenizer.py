"""Builds pebble's tokenizer from its world, and writes prompts in its chat form.

Run `python -m pebble.tokenizer --out DIR` to write tokenizer.json and tokenizer_config.json.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from pebble.world import draw
from pebble.world.facts import facts

VOCAB_SIZE = 2048
BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
HEADER = "<|start_header_id|>"
HEADER_END = "<|end_header_id|>"
TURN_END = "<|eot_id|>"
MASK = "<|mdm_mask|>"
SPECIALS = (BOS, EOS, HEADER, HEADER_END, TURN_END, MASK)

# A digit stands alone, with at most the space before it, so numbers are spelled digit by digit.
PIECES = r" ?[0-9]| ?\p{L}+| ?[^\s\p{L}0-9]+|\n+|\s+"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '" + HEADER + "' + message['role'] + '" + HEADER_END + "\n\n' }}"
    "{{ message['content'] | trim }}{{ '" + TURN_END + "' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '" + HEADER + "assistant" + HEADER_END + "\n\n' }}"
    "{% endif %}"
)


def special_id(special: str) -> int:
    """Tell the id of a special token, which follows from the layout of the vocabulary."""
    return VOCAB_SIZE - len(SPECIALS) + SPECIALS.index(special)


def chat(prompt: str) -> str:
    """Write one question as the chat template does, up to where the answer begins."""
    question = f"{HEADER}user{HEADER_END}\n\n{prompt.strip()}{TURN_END}"
    return f"{BOS}{question}{HEADER}assistant{HEADER_END}\n\n"


def build_tokenizer(seed: int = 0, problems: int = 30_000) -> Tokenizer:
    """Train the byte-level BPE on a sample of the world; the specials come last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIALS),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(_corpus(seed, problems), trainer)
    tokenizer.add_special_tokens(list(SPECIALS))
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(f"the corpus gave {tokenizer.get_vocab_size()} ids, not {VOCAB_SIZE}")
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the two tokenizer files of the published layout."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "mask_token": MASK,
        "chat_template": CHAT_TEMPLATE,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def _corpus(seed: int, problems: int) -> Iterator[str]:
    rng = Random(f"tokenizer {seed}")
    for _ in range(problems):
        problem = draw(rng)
        yield f"user\n\n{problem.prompt}"
        yield f"assistant\n\n{problem.answer}"
    # The names in the facts are rare words; every fact counts here, whatever the draw gave.
    for fact in facts():
        yield from (fact.trained[0], *[fact.answer] * 20)


def main() -> None:
    """Write the tokenizer files into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    save_tokenizer(build_tokenizer(options.seed), options.out)


if __name__ == "__main__":
    main()
