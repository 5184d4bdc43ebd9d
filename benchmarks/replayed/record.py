"""Listening to a model: what the policies of each setting answer, over blocks that hold text.

What stands behind the EOS of an answer is decided at once and says nothing of how text is decoded,
so a block counts only if at least a quarter of it is text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.replayed.policies import scripted
from benchmarks.replayed.schedule import BlockAnswers, Schedule
from benchmarks.replayed.scripts import Notes
from skipstone.diff.agreement import Question
from skipstone.engine import Engine, Settings
from skipstone.errors import ConfigError
from skipstone.leaderboard.protocol import protocol
from skipstone.models.load import Model
from skipstone.sweep.grid import BASELINE, Setting


def settings_of(model: Model, base: Settings, *, knobs: bool) -> tuple[Setting, ...]:
    """All settings of a leaderboard, and what they are held against."""
    run = protocol(model, base, knobs=knobs)
    return (Setting(BASELINE, run.baseline), *run.settings)


def by_family(
    questions: Sequence[Question], model: Model, *, least: int, most: int
) -> list[Question]:
    """Questions whose known answers have so many tokens, one of every family in turn."""
    lengths = ((len(model.text.encode_rendered(q.answer)), q) for q in questions if q.answer)
    fitting = [q for length, q in lengths if least <= length <= most]
    seen, ranked = dict[str, int](), list[tuple[int, Question]]()
    for question in fitting:
        rank = seen[question.family] = seen.get(question.family, -1) + 1
        ranked.append((rank, question))
    return [question for _, question in sorted(ranked, key=lambda pair: pair[0])]


def answered_with_text(
    model: Model, settings: Settings, prompts: Iterable[str], limit: int
) -> list[str]:
    """The first prompts of whose answer a block holds text, as the model gives it."""
    found, engine = list[str](), Engine(model, settings)
    for prompt in prompts:
        if _blocks_of_text(engine.generate(prompt).length, settings.whole_block):
            found.append(prompt)
            if len(found) == limit:
                break
    return found


def listened(model: Model, settings: Settings, prompts: Sequence[str | list[int]]) -> Schedule:
    """Decode prompts and keep the blocks of each answer that hold text.

    Raises:
        ConfigError: no answer has such a block.
    """
    settings = settings.replace(stop_after="block")
    notes, first, later = Notes(), list[BlockAnswers](), list[BlockAnswers]()
    engine = Engine(model, scripted(settings, notes))
    for prompt in prompts:
        length = engine.generate(prompt).length
        blocks = notes.take()
        for index in range(_blocks_of_text(length, settings.whole_block)):
            (later if index else first).append(blocks[index])
    if not first:
        raise ConfigError(
            f"none of {len(prompts)} answers fills a quarter of a block of "
            f"{settings.whole_block} with text; take prompts that are answered at length"
        )
    return Schedule(settings.as_text(), tuple(first), tuple(later))


def _blocks_of_text(length: int, block_length: int) -> int:
    """So many blocks of an answer of this length are at least a quarter full."""
    return (length + block_length * 3 // 4) // block_length
