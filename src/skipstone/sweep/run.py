"""The sweep itself: what is to be run, who runs it, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch

from skipstone.cache import NoCache
from skipstone.checks import checked
from skipstone.diff.agreement import Question
from skipstone.engine import Engine, Settings
from skipstone.engine.defaults import alike
from skipstone.errors import ConfigError, PromptError, SkipstoneError
from skipstone.kinds import of_kind
from skipstone.models.load import Model
from skipstone.models.locate import EMBEDDED
from skipstone.outputs import one_writer
from skipstone.quoting import shown
from skipstone.skip import NoSkip
from skipstone.sweep.executors import Executor, Serial
from skipstone.sweep.grid import Setting
from skipstone.sweep.measure import Measurement
from skipstone.sweep.reports import Reports
from skipstone.sweep.results import Results
from skipstone.sweep.store import Head, Store, check_parquet, digest, make_folder
from skipstone.sweep.timing import filled
from skipstone.sweep.units import WorkerSetup
from skipstone.unmask import Fixed
from skipstone.version import __version__

TIME_EVERY = 16
"""One prompt of so many is decoded one setting after the other, and timed."""

EXACT = {"cache": "none", "skip": "none", "unmask": "fixed"}
"""Over any settings: nothing is stale, nothing skips, one token a step."""


@dataclass(frozen=True)
class Sweep:
    """A sweep that is done."""

    store: Store
    questions: Sequence[Question]
    settings: Sequence[Setting]
    baseline: Settings
    measurements: Sequence[Measurement]
    """By prompt, and the baseline before the settings."""
    reports: Mapping[tuple[int, str], str] = field(default_factory=dict)
    """Pages about changed answers by prompt and setting, as paths within the folder."""

    @property
    def raised(self) -> tuple[str, ...]:
        """Settings whose policy raised an error, on how many prompts, and the first error."""
        return tuple(filter(None, map(self._raised, self.settings)))

    def _raised(self, setting: Setting) -> str:
        errors = [m.evidence for m in self.measurements if m.setting == setting.name and m.raised]
        if not errors:
            return ""
        total = len(self.questions)
        rest = "work and times are those of the others" if len(errors) < total else "it has no line"
        return (
            f"{setting.name} has no answer to {len(errors)} of {total} prompts, which count as "
            f"changed; {rest}: {errors[0]}"
        )


def exact(settings: Settings) -> Settings:
    """Settings without any shortcut: no cache, no skip, one token a step."""
    return settings.replace(cache=NoCache(), skip=NoSkip(), unmask=Fixed())


def run_sweep(
    model: Model,
    questions: Sequence[Question],
    settings: Sequence[Setting],
    folder: Path,
    *,
    baseline: Settings,
    limit: int | None = None,
    executor: Executor | None = None,
    explain: float = 0.0,
    reports: int = 0,
    time_every: int = TIME_EVERY,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sweep:
    """Decode prompts under settings, and keep every measurement: a sweep that was killed goes on.

    Args:
        model: what ``skipstone.load`` gave; workers load it again by its name.
        questions: prompts, with their answers where known.
        settings: of a grid, none twice.
        folder: of this sweep alone.
        baseline: what the settings are held against.
        limit: only the first so many prompts; a later call may take more of them.
        executor: who runs it; this process if None.
        explain: seconds that experiments on a changed answer may take, to find its cause; 0: none.
            A later call may give more, which looks again for the causes that were not found.
        reports: most pages about changed answers that were explained, one for each setting and
            family. A later call may ask for more; prompts that are done get none.
        time_every: one of so many prompts, the first among them, is decoded one setting after the
            other and timed; all others are decoded together, and their times estimated. 1: all
            are timed.
        progress: told after each prompt how many are finished, with their causes, and of how many.

    Raises:
        ConfigError: settings do not fit the model, an argument is of another kind, or the folder is
            of another sweep.
        PromptError: a prompt cannot be used.
    """
    of_kind("folder", folder, (str, Path), "the folder of this sweep")
    _check_kinds(model, questions, settings, baseline, limit)
    _check_counts(time_every, reports)
    folder, chosen = Path(folder), questions[:limit]
    plan = replace(_plan(model, baseline, settings), explain=explain, reports=reports > 0)
    _check(model, plan, chosen)
    check_prompts(model, questions, max(s.settings.gen_length for s in plan.all), len(chosen))
    check_parquet()
    make_folder(folder)
    with one_writer(folder):
        store = Store(folder, _head(model, plan, questions, time_every))
        pages = Reports(folder, chosen, plan.all, reports)
        results = Results(store, chosen, plan, pages, model.text.token, progress)
        for found in (executor or Serial()).run(model, plan, results.open(time_every)):
            results.take(found)
        measurements = filled([m for prompt in range(len(chosen)) for m in store.read(prompt)])
        store.finish(measurements, chosen)
    return Sweep(store, chosen, plan.settings, plan.baseline, measurements, pages.paths)


def _check_kinds(
    model: object, questions: object, settings: object, baseline: object, limit: object
) -> None:
    """Refuse arguments of another kind."""
    of_kind("model", model, Model, "what skipstone.load gave")
    of_kind("questions", questions, (list, tuple), "a list of questions")
    of_kind("settings", settings, (list, tuple), "a list of settings")
    of_kind("baseline", baseline, Settings, "skipstone.Settings")
    checked("limit", limit, int | None)
    for question in questions if isinstance(questions, (list, tuple)) else ():
        of_kind("a question", question, Question, "a Question of skipstone.sweep")
    for setting in settings if isinstance(settings, (list, tuple)) else ():
        of_kind("a setting", setting, Setting, "a Setting of skipstone.sweep")


def _check_counts(time_every: object, reports: object) -> None:
    """Refuse numbers that are none, or too small."""
    for name, value, least in (("time_every", time_every, 1), ("reports", reports, 0)):
        if cast("int", checked(name, value, int)) < least:
            raise ConfigError(f"{name} is {shown(value)}, must be at least {least}")


def _plan(model: Model, baseline: Settings, settings: Sequence[Setting]) -> WorkerSetup:
    network = model.network
    baseline, *runs = alike([baseline, *(setting.settings for setting in settings)], model)
    return WorkerSetup(
        model=whereabouts(model),
        device=network.device.type,
        dtype=str(network.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        baseline=baseline,
        settings=tuple(replace(s, settings=run) for s, run in zip(settings, runs, strict=True)),
    )


def whereabouts(model: Model) -> str:
    """A model's name as it is found from any folder, where workers may start and readers may be."""
    path = Path(model.name)
    here = model.name != EMBEDDED and path.is_dir()
    return str(path.absolute()) if here else model.name


def check_prompts(model: Model, questions: Sequence[Question], gen_length: int, count: int) -> None:
    """Refuse now what would fail after an hour.

    Args:
        model: that is to decode them.
        questions: all prompts. None may be there twice, also where a later call would come to it:
            it could not be removed from a sweep that was begun.
        gen_length: most new tokens.
        count: how many of them are run now.

    Raises:
        PromptError: a prompt cannot be used.
    """
    first = dict[str, str]()
    for number, question in enumerate(questions, start=1):
        where = f"prompt {number} (line {question.line})" if question.line else f"prompt {number}"
        if number <= count:
            _check_length(model, question.prompt, gen_length, where)
        if question.prompt in first:
            raise PromptError(
                f"{where} is the same as {first[question.prompt]}; a repeated prompt proves "
                f"nothing more: remove it"
            )
        first[question.prompt] = where


def _check_length(model: Model, prompt: str, gen_length: int, where: str) -> None:
    try:
        length = len(model.text.encode(prompt))
    except SkipstoneError as error:
        raise PromptError(f"{where}: {error}") from None
    if length + gen_length > model.config.max_length:
        raise PromptError(
            f"{where} has {length} tokens, and gen_length is {gen_length}: more than the model's "
            f"{model.config.max_length}; shorten one"
        )


def _check(model: Model, plan: WorkerSetup, questions: Sequence[Question]) -> None:
    """Refuse settings that do not fit the model, and no prompts."""
    if not questions:
        raise ConfigError("there are no prompts to run; give at least one")
    for setting in plan.all:
        try:
            Engine(model, setting.settings)
        except ConfigError as error:
            raise ConfigError(f"setting {shown(setting.name)}: {error}") from None


def _head(model: Model, plan: WorkerSetup, questions: Sequence[Question], time_every: int) -> Head:
    """Everything that decides the measurements, but for their times and causes."""
    return {
        "skipstone": __version__,
        "model": model.name,
        "weights": model.fingerprint,
        "device": plan.device,
        "dtype": plan.dtype,
        "prompts": digest(questions),
        "baseline": plan.baseline.as_text(),
        "settings": [setting.settings.as_text() for setting in plan.settings],
        "timed": f"one prompt of {time_every}",
    }
