"""The engine: prompts in, results out."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Never, Unpack, cast, get_args

import torch

from skipstone import policies
from skipstone.canvas import Canvas, Geometry, HostCanvas, Status
from skipstone.checks import checked
from skipstone.engine.ages import Ages
from skipstone.engine.eager import EagerLayers
from skipstone.engine.graph import GraphLayers
from skipstone.engine.loop import Done, Run, Seat
from skipstone.engine.observe import Observer, Taps
from skipstone.engine.prompts import Prompt, Prompts, encode, several
from skipstone.engine.result import Result, Stats
from skipstone.engine.roofline import advice
from skipstone.engine.runner import Layers, Runner
from skipstone.engine.scoring import Scorer
from skipstone.engine.settings import Settings, SettingsFields
from skipstone.errors import ConfigError, NotFiniteError, PromptError, nearest
from skipstone.models.base import KVStore
from skipstone.models.load import Model
from skipstone.quoting import shown
from skipstone.skip import NoSkip

# On a card a step of so few rows takes about as long as reading the weights, and so would fewer.
MOST_UNPACKED = 192
RunnerName = Literal["auto", "eager", "graph"]


class Engine:
    """Decodes prompts with one model under one set of settings.

    Settings, by name: ``cache`` (which rows a step recomputes: none, prefix, dual), ``unmask``
    (which masks it commits: fixed, threshold, factor), ``skip`` (which rows leave early: none,
    cosine), ``gen_length`` (new positions), ``block_length`` (decoded together), ``steps``,
    ``temperature`` (0: greedy), ``seed``, ``eos_stop``, ``budget`` (finish or stop).
    ``help(Settings)`` has their defaults. ``generate`` decodes one prompt into a ``Result``,
    ``generate_batch`` several.

    Example:
        ``Engine(load("pebble"), cache="dual").generate("Who is Newton, physics?").text``
    """

    def __init__(
        self,
        model: Model,
        settings: Settings | None = None,
        *misplaced: Never,
        runner: RunnerName = "auto",
        **changes: Unpack[SettingsFields],
    ) -> None:
        """Take settings as one value, as keywords, or as a value with some keywords changed.

        Args:
            model: what ``skipstone.load`` gave.
            settings: how to decode.
            misplaced: nothing; single settings have names.
            runner: ``eager``, or ``graph`` to replay captured CUDA graphs; ``auto`` does that on
                a GPU. On a CPU, ``graph`` runs the same code without capturing, for tests.
            changes: settings by name.

        Raises:
            ConfigError: the runner or a setting is unknown, or a setting is out of range or does
                not fit the model.
        """
        if not isinstance(model, Model):
            name = shown(model) if isinstance(model, str | Path) else "'pebble'"
            raise ConfigError(f"model is {shown(model)}; load it first: skipstone.load({name})")
        if misplaced or not isinstance(settings, Settings | None):
            found = (settings, *misplaced) if misplaced else settings
            raise ConfigError(
                f"settings is {shown(found)}, must be Settings; give single ones by name, like "
                f"Engine(model, cache='dual', gen_length=64)"
            )
        self.model = model
        self.settings = (settings or Settings()).replace(**changes)
        if runner not in get_args(RunnerName):
            known = get_args(RunnerName)
            raise ConfigError(f"runner {shown(runner)} is unknown; {nearest(str(runner), known)}")
        self._graphs = runner == "graph" or (
            runner == "auto" and model.network.device.type == "cuda"
        )
        self._kept: GraphLayers | None = None
        self._check_fit()
        self._advised = False

    def __repr__(self) -> str:
        """The call that makes this engine again."""
        return f"Engine({self.model!r}, {self.settings!r})"

    def generate(self, prompt: Prompt, *, observer: Observer | None = None) -> Result:
        """Decode one prompt.

        Args:
            prompt: text or messages (``[{"role": "user", "content": "..."}]``), put into the
                model's chat template; or ids, taken as they are: a list, or an array or tensor
                [L] or [1, L].
            observer: shown every step.

        Raises:
            PromptError: the prompt is none, empty, too long, or has ids that the model does not
                have.
            StalledError: the unmask policy never commits anything.
            NotFiniteError: a number is not finite; the message names the request and the layer.
        """
        return self.generate_batch([prompt], observer=observer)[0]

    @torch.inference_mode()
    def generate_batch(
        self,
        prompts: Prompts,
        *,
        batch_size: int | None = None,
        observer: Observer | None = None,
    ) -> list[Result]:
        """Decode prompts of any lengths together; each gives the tokens it would give alone.

        Every request is at its own block and step. One that is done leaves its place in the batch
        to the next prompt.

        Args:
            prompts: each as ``generate`` takes it; or ids [B, L].
            batch_size: how many are decoded at once; all if None. Places that nobody takes are a
                note of each result.
            observer: shown every step.

        Raises:
            PromptError: there is no prompt, or one cannot be used; the message says which.
            ConfigError: the batch size is not a positive number.
            StalledError: the unmask policy never commits anything.
            NotFiniteError: a number is not finite; the message names the request and the layer,
                ``finished`` has the results of the prompts that were done by then.
        """
        given = several(prompts)
        batch_size = cast("int | None", checked("batch_size", batch_size, int | None))
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size is {shown(batch_size)}, must be at least 1")
        alone = len(given) == 1
        ids = [
            self._encode(prompt, "the prompt" if alone else f"prompt {i}")
            for i, prompt in enumerate(given)
        ]
        places = min(batch_size or len(ids), len(ids))
        self._advise(places, max(map(len, ids)) + self.settings.gen_length)
        started = time.perf_counter()
        run = self.start(ids, observer, batch_size=places, graphs=self._graphs)
        if observer is not None:
            observer.on_start(self.model, self.settings, ids)
        said = _idle_places(batch_size, len(given))
        notes = [
            (*(self.model.text.notes if isinstance(prompt, str) else ()), *said) for prompt in given
        ]
        try:
            run.decode()
        except NotFiniteError as error:
            if alone:
                raise
            finished = self._results(run, time.perf_counter() - started, notes)
            message = f"{error}; {len(finished)} of {len(given)} prompts were finished"
            raise NotFiniteError(message, finished) from None
        if isinstance(run.runner.layers, GraphLayers):
            self._kept = run.runner.layers
        results = list(self._results(run, time.perf_counter() - started, notes).values())
        if observer is not None:
            observer.on_end(results)
        return results

    def _advise(self, batch: int, length: int) -> None:
        """Warn, once for an engine, that its skip cannot pay."""
        message = None if self._advised else advice(self.model, self.settings, batch, length)
        if message is not None:
            self._advised = True
            warnings.warn(message, stacklevel=4)

    def _check_fit(self) -> None:
        """Let the skip policy refuse this model now rather than at the first prompt."""
        network = self.model.network
        config = network.config
        self.settings.skip.start(
            Geometry(
                batch=0,
                length=0,
                gen_length=0,
                num_layers=config.num_layers,
                width=config.width,
                dtype=network.dtype,
                device=network.device,
                seeds=(),
            )
        )

    def _encode(self, prompt: object, where: str) -> list[int]:
        """Ids of a prompt that fits the model; ``where`` names it in errors."""
        config, gen_length = self.model.config, self.settings.gen_length
        ids = encode(prompt, self.model.text, where, config.max_length)
        for token in ids:
            if not 0 <= token < config.vocab_size:
                raise PromptError(
                    f"{where} holds id {shown(token)}, outside the model's vocabulary of "
                    f"{config.vocab_size} (0 to {config.vocab_size - 1})"
                )
        if len(ids) + gen_length > config.max_length:
            raise PromptError(
                f"{where} has {len(ids)} tokens and gen_length is {gen_length}: together "
                f"{len(ids) + gen_length}, more than the model's {config.max_length}; shorten one"
            )
        return ids

    def start(
        self,
        ids: Sequence[Sequence[int]],
        observer: Observer | None = None,
        *,
        batch_size: int | None = None,
        graphs: bool = False,
    ) -> Run:
        """Everything that one run remembers, freshly made; ``decode`` or ``step`` drives it."""
        network, settings = self.model.network, self.settings
        config = network.config
        places = batch_size or len(ids)
        lengths = [len(prompt) + settings.gen_length for prompt in ids]
        canvas = Canvas.start(
            ids[:places],
            settings.gen_length,
            config.mask_id,
            network.device,
            length=max(lengths),
        )
        geometry = Geometry(
            batch=canvas.batch,
            length=canvas.ids_BL.shape[1],
            gen_length=settings.gen_length,
            num_layers=config.num_layers,
            width=config.width,
            dtype=network.dtype,
            device=network.device,
            seeds=(settings.seed or 0,) * canvas.batch,
        )
        layers = self._layers(geometry, graphs=graphs)
        run = Run(
            settings=settings,
            config=config,
            canvas=canvas,
            runner=Runner(network, settings.skip.start(geometry), layers),
            scorer=Scorer(network, geometry, settings.temperature),
            unmask=settings.unmask.start(geometry),
            observer=observer,
            taps=observer.taps if observer is not None else Taps(),
            host=HostCanvas(*canvas.read().wait()),
            committed_BL=torch.zeros_like(canvas.status_BL, dtype=torch.bool),
            seats=[Seat(sample, len(prompt)) for sample, prompt in enumerate(ids[:places])],
            waiting=deque(enumerate(ids[places:], start=places)),
            ages=Ages.start(canvas) if observer is not None else None,
            # A CPU computes while it launches.
            ahead=1 if canvas.ids_BL.is_cuda and self._may_fly(canvas.batch, observer) else 0,
        )
        if isinstance(layers, GraphLayers):
            layers.warm_up(run.runner.spans())
        if canvas.ids_BL.is_cuda and run.runner.skip is not None:
            run.runner.packs = self._packs(run)
        return run

    def _packs(self, run: Run) -> bool:
        """Whether a card should pack away the rows that leave."""
        cached = self.settings.cache.rows(run.together(run.blocks[0], 1, 1))
        # Noise is drawn for each row that is scored: not for those that are computed in vain.
        return self.settings.temperature > 0 or cached.num_rows > MOST_UNPACKED

    def _may_fly(self, batch: int, observer: Observer | None) -> bool:
        """Whether a step may be launched before the one before it has landed.

        Where a request may leave a batch at EOS, the others would be computed beside rows that a
        waiting run does not have, and round differently.
        """
        settings = self.settings
        leaves = settings.eos_stop and batch > 1
        # Whoever wants states or logits looks at them before anything overwrites them.
        tapped = observer is not None and bool(observer.taps)
        return not (tapped or settings.temperature > 0 or leaves)

    def _layers(self, geometry: Geometry, *, graphs: bool) -> Layers:
        """Layers over a store; with all graphs that earlier runs captured, if it has room."""
        network, kept = self.model.network, self._kept
        if graphs and kept is not None and kept.store.fits(geometry):
            # Not at hand for a run that starts before this one has ended.
            self._kept = None
            return kept
        slots, length = geometry.batch, geometry.length
        if graphs and network.device.type == "cuda":
            # What is captured lies over this memory: it has room for the longest prompt at once.
            self._kept = None
            length = network.config.max_length
        store = KVStore(network.config, slots, length, geometry.dtype, geometry.device)
        return GraphLayers(network, store) if graphs else EagerLayers(network, store)

    def _results(
        self, run: Run, seconds: float, notes: Sequence[tuple[str, ...]]
    ) -> dict[int, Result]:
        """By index of the prompt, in order; ``notes`` are what is to be said of each besides."""
        done = sorted(run.done, key=lambda one: one.sample)
        generated = [_generated(one, self.model.config.eos_id) for one in done]
        results = dict[int, Result]()
        for one, count in zip(done, generated, strict=True):
            masked_G = one.status_G == Status.MASK
            tokens, masks = tuple(one.ids_G.tolist()), int(masked_G.sum())
            stats = Stats(
                steps=tuple(one.stats),
                seconds=seconds,
                generated=count,
                run_generated=sum(generated),
            )
            results[one.sample] = Result(
                text=self.model.text.decode(tokens, masked_G.tolist()),
                tokens=tokens,
                length=_length(one, self.model.config.eos_id),
                prompt_tokens=one.prompt_length,
                masks_left=masks,
                stats=stats,
                settings=self.settings,
                notes=(*_notes(self.settings, stats, masks), *notes[one.sample]),
            )
        return results


def _length(done: Done, eos_id: int) -> int:
    """New positions before the first EOS."""
    ended_G = (done.ids_G == eos_id) & (done.status_G != Status.MASK)
    return int(ended_G.argmax()) if ended_G.any() else ended_G.size


def _generated(done: Done, eos_id: int) -> int:
    """New tokens up to the first EOS; masks are not counted."""
    return int((done.status_G[: _length(done, eos_id)] != Status.MASK).sum())


def _idle_places(batch_size: int | None, count: int) -> tuple[str, ...]:
    """That a batch has places which nobody takes."""
    if batch_size is None or batch_size <= count:
        return ()
    whole = "the only prompt" if count == 1 else f"the {count} prompts: all are decoded at once"
    return (f"batch_size={shown(batch_size)} has no effect: it is more than {whole}",)


def _notes(settings: Settings, stats: Stats, masks_left: int) -> tuple[str, ...]:
    """What was set or switched on and did nothing, and what is missing from the answer."""
    notes = list(settings.idle())
    if masks_left:
        notes.append(
            f"{masks_left} of {settings.gen_length} new tokens are still masks: the step budget "
            f"ended first (budget=stop); budget=finish decodes them"
        )
    if not isinstance(settings.skip, NoSkip) and stats.skip_share == 0:
        could = sum(step.skippable_row_layers for step in stats.steps)
        skip = policies.SKIP.spell(settings.skip, brief=True)
        notes.append(f"skip is on ({skip}) and skipped nothing: 0 of {could} row-layers")
    interval = getattr(settings.cache, "refresh_every", 0)
    if interval and not any(step.refresh and step.step for step in stats.steps):
        notes.append(
            f"refresh_every={interval} never came due: no block took more than {interval} steps"
        )
    if stats.num_refreshes == stats.num_forwards and stats.num_forwards:
        cache = policies.CACHE.spell(settings.cache, brief=True)
        forwards = stats.num_forwards
        why = (
            f"all {forwards} forwards were refreshes"
            if forwards > 1
            else "the only forward was a refresh"
        )
        notes.append(f"cache is on ({cache}) and saved nothing: {why}")
    return tuple(notes)
