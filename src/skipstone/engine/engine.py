"""The engine: prompts in, results out."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Never, Unpack, cast

from skipstone.checks import checked
from skipstone.engine.arena import MOST_SLOTS, Arena
from skipstone.engine.commits import Commit
from skipstone.engine.defaults import with_defaults
from skipstone.engine.driver import Driver
from skipstone.engine.finish import idle_places, raise_error, result_of
from skipstone.engine.fit import check_fit, without_graphs
from skipstone.engine.layout import Layout, RunnerName, captures
from skipstone.engine.load import EngineLoad
from skipstone.engine.loop import Loop
from skipstone.engine.observe import Observer
from skipstone.engine.prompts import Prompt, Prompts, several
from skipstone.engine.request import Handle, Request, read_or_cancel
from skipstone.engine.requests import Requests
from skipstone.engine.result import Result
from skipstone.engine.roofline import advice
from skipstone.engine.settings import Settings, SettingsFields
from skipstone.engine.watch import RequestWatch
from skipstone.errors import ConfigError
from skipstone.memory.limit import MemoryLimit
from skipstone.models.load import Model
from skipstone.quoting import shown


class Engine:
    """Decodes prompts with one model under one set of settings.

    Settings, by name: ``cache`` (which rows a step recomputes: none, prefix, dual), ``unmask``
    (which masks it commits: fixed, threshold, factor), ``skip`` (which rows leave early: none,
    cosine), ``gen_length`` (new positions), ``block_length`` (decoded together), ``steps``,
    ``temperature`` (0: greedy), ``top_p``, ``top_k``, ``seed``, ``eos_stop``, ``budget``
    (finish or stop), ``growing_canvas``, ``absolute_blocks``, ``stop_after``, ``stop_ids``,
    ``reuse_prefix``, ``suffix_window``.
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
        slots: int = 16,
        memory: float | str | None = None,
        **changes: Unpack[SettingsFields],
    ) -> None:
        """Take settings as one value, as keywords, or as a value with some keywords changed.

        Args:
            model: what ``skipstone.load`` gave.
            settings: how to decode.
            misplaced: nothing; single settings have names.
            runner: ``eager``, or ``graph`` to replay captured CUDA graphs; ``auto`` does that on
                a GPU. On a CPU, ``graph`` runs the same code without capturing, for tests.
            slots: how many requests are decoded at once where they are submitted one by one.
            memory: what their keys and values may take, and what policies keep beside them: a
                share of the memory that is free, or bytes like ``"40GB"``. None: on a GPU half of
                what is free, taken at the first generation; on a CPU what they need. Requests for
                which there is no room wait.
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
        stated = (settings or Settings()).replace(**changes)
        self.settings = with_defaults(stated, model)
        graphs = captures(runner, model.network)
        if not 1 <= cast("int", checked("slots", slots, int)) <= MOST_SLOTS:
            raise ConfigError(f"slots is {shown(slots)}, must be between 1 and {MOST_SLOTS}")
        self._arena = Arena(model.network, MemoryLimit.of(memory))
        self._layout = Layout(
            model.network, self._arena, slots, self.settings.gen_length, graphs=graphs
        )
        self._driver = Driver(self._layout.begin)
        self._graphs, self._slots = graphs, slots
        check_fit(model.network, self.settings)
        self._requests = Requests(model, self._arena, stated)
        self._advised = False

    def __repr__(self) -> str:
        """The call that makes this engine again."""
        return f"Engine({self.model!r}, {self.settings!r})"

    @property
    def load(self) -> EngineLoad:
        """What there is to do at present; any thread may ask, at any time."""
        driver = self._driver
        return EngineLoad.of(*driver.requests(), self._slots, self._arena, driver.alive)

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
            NoRoomError: its keys and values would never fit, or more memory is asked for than there
                is.
            StalledError: the unmask policy never commits anything.
            NotFiniteError: a number is not finite; the message names the request and the layer.
        """
        return self.generate_batch([prompt], observer=observer)[0]

    def generate_batch(
        self,
        prompts: Prompts,
        *,
        batch_size: int | None = None,
        settings: Sequence[Settings] | None = None,
        observer: Observer | None = None,
    ) -> list[Result]:
        """Decode prompts of any lengths together; each gives the tokens it would give alone.

        Every request is at its own block and step. One that is done leaves its slot to the next
        prompt; one that ends with an error leaves the others alone.

        Args:
            prompts: each as ``generate`` takes it; or ids [B, L].
            batch_size: how many are decoded at once; all if None. Places that nobody takes are a
                note of each result.
            settings: of each prompt; None: the engine's. Those with another skip policy than the
                one before are decoded after it.
            observer: shown every step.

        Raises:
            PromptError: there is no prompt, or one cannot be used; the message says which.
            NoRoomError: the keys and values of one would never fit.
            ConfigError: the batch size is not a positive number, or settings do not fit.
            StalledError: the unmask policy never commits anything.
            NotFiniteError: a number is not finite; the message names the request and the layer,
                ``finished`` has the results of the other prompts.
        """
        given = several(prompts)
        batch_size = cast("int | None", checked("batch_size", batch_size, int | None))
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size is {shown(batch_size)}, must be at least 1")
        said = idle_places(batch_size, len(given))
        size = None if batch_size is None else min(batch_size, len(given))
        alone, own = len(given) == 1, [self.settings] * len(given)
        if settings is not None:
            own = self._requests.settings_of(settings, len(given))
        handles = [
            self._handle(
                self._requests.of_prompt(
                    prompt, "the prompt" if alone else f"prompt {i}", own[i], i
                ),
                observer=observer,
                batch_size=size,
                notes=(*(self.model.text.notes if isinstance(prompt, str) else ()), *said),
            )
            for i, prompt in enumerate(given)
        ]
        self._advise(size or len(given), max(h.request.length for h in handles))
        return self._decode(handles, observer)

    def submit(
        self,
        prompt: Prompt,
        *,
        observer: Observer | None = None,
        **changes: Unpack[SettingsFields],
    ) -> Handle:
        """Begin to decode a prompt beside whatever is being decoded, and return at once.

        Any thread may submit. Requests are decoded together, first come, first served; each gives
        the tokens that it gives alone. They may differ in all settings but ``skip``: one with
        another skip policy waits until those before it are done.

        Args:
            prompt: as ``generate`` takes it.
            observer: shown every step of this request, as if it were decoded alone, on the thread
                that decodes. ``on_start`` is called when it is admitted; ``on_end`` has its result,
                or nothing where it was cancelled or ended with an error. What the observer raises
                ends this request.
            changes: settings of this request, ``stop_ids`` among them; the others are the
                engine's.

        Returns:
            What waits for the result, gives commits as they happen, and can cancel the request.

        Raises:
            PromptError: the prompt cannot be used.
            NoRoomError: its keys and values would never fit.
            ConfigError: a setting is unknown or does not fit the model; the observer is none, or
                watches another request.
        """
        settings = self._requests.fitting(self._requests.stated.replace(**changes))
        notes = self.model.text.notes if isinstance(prompt, str) else ()
        request = self._requests.of_prompt(prompt, "the prompt", settings)
        return self._submit(request, observer, notes)

    def stream(self, prompt: Prompt, **changes: Unpack[SettingsFields]) -> Iterator[Commit]:
        """Decode a prompt, and give each token as it is decided, wherever that is.

        Whoever stops reading cancels the request.

        Args:
            prompt: as ``generate`` takes it.
            changes: settings of this request.

        Yields:
            Position among the new tokens, token, and the final text so far.

        Raises:
            PromptError: the prompt cannot be used.
            ConfigError: a setting is unknown or does not fit the model.
            StalledError: the unmask policy never commits anything.
            NotFiniteError: a number is not finite; the message names the layer.
        """
        return read_or_cancel(self.submit(prompt, observer=None, **changes))

    def edit(
        self, canvas: Prompt, *, observer: Observer | None = None, **changes: Unpack[SettingsFields]
    ) -> Result:
        """Fill in the masks of a canvas, wherever they are; all other tokens stay as they are.

        Args:
            canvas: ids with the model's mask id where tokens are to be found: a list, or an array
                or tensor [L] or [1, L].
            observer: shown every step.
            changes: settings. Nothing ends at an EOS that was given: ``eos_stop`` is off unless it
                is asked for. ``gen_length`` is what lies from the first mask on.

        Returns:
            ``tokens`` are all from the first mask on; ``prompt_tokens`` are those before it.

        Raises:
            PromptError: there is no mask, or the ids are none of this model.
            ConfigError: a setting is unknown or does not fit.
        """
        request = self._requests.of_canvas(canvas, changes)
        return self._decode([self._handle(request, observer=observer)], observer)[0]

    def submit_canvas(
        self, canvas: Prompt, *, observer: Observer | None = None, **changes: Unpack[SettingsFields]
    ) -> Handle:
        """Begin to fill in the masks of a canvas beside whatever is being decoded, at once.

        Args:
            canvas: as ``edit`` takes it.
            observer: as ``submit`` takes it.
            changes: as ``edit`` takes them.

        Returns:
            What waits for the result; its request has the canvas: the ids of ``prompt`` and, from
            the first mask on, of ``region``, by whose offsets the handle tells what is decided.

        Raises:
            PromptError: there is no mask, or the ids are none of this model.
            NoRoomError: its keys and values would never fit.
            ConfigError: a setting is unknown or does not fit.
        """
        return self._submit(self._requests.of_canvas(canvas, changes), observer)

    def _submit(
        self, request: Request, observer: Observer | None, notes: Sequence[str] = ()
    ) -> Handle:
        watch = None if observer is None else RequestWatch(observer, self.model)
        handle = self._handle(request, watch=watch, notes=notes, joined=True)
        self._driver.submit(handle)
        return handle

    def _decode(self, handles: Sequence[Handle], observer: Observer | None) -> list[Result]:
        """Decode these requests, and wait for all of them."""
        started = time.perf_counter()
        if observer is not None:
            settings = handles[0].request.settings
            observer.on_start(self.model, settings, [h.request.prompt for h in handles])
        self._driver.run(handles)
        seconds = time.perf_counter() - started
        finished = {
            h.request.sample: h.result() for h in handles if h.done() and h.exception() is None
        }
        generated = sum(result.stats.generated for result in finished.values())
        for sample, result in finished.items():
            stats = replace(result.stats, seconds=seconds, run_generated=generated)
            finished[sample] = replace(result, stats=stats)
        for handle in handles:
            raise_error(handle.exception(), finished, len(handles))
        results = list(finished.values())
        if observer is not None:
            observer.on_end(results)
        return results

    def _advise(self, batch: int, length: int) -> None:
        """Warn, once for an engine, that its skip cannot pay."""
        message = None if self._advised else advice(self.model, self.settings, batch, length)
        if message is not None:
            self._advised = True
            warnings.warn(message, stacklevel=4)

    def _handle(
        self,
        request: Request,
        *,
        observer: Observer | None = None,
        watch: RequestWatch | None = None,
        batch_size: int | None = None,
        joined: bool = False,
        notes: Sequence[str] = (),
    ) -> Handle:
        text, eos_id = self.model.text, self.model.config.eos_id
        notes = (*notes, *(without_graphs(request.settings) if self._graphs else ()))
        finish = partial(result_of, text=text, eos_id=eos_id, notes=notes)
        return Handle(
            request,
            text,
            finish,
            observer=observer,
            watch=watch,
            batch_size=batch_size,
            joined=joined,
        )

    def start(
        self,
        ids: Sequence[Sequence[int]],
        observer: Observer | None = None,
        *,
        batch_size: int | None = None,
        graphs: bool = False,
    ) -> Loop:
        """A loop of its own for some prompts, the first of which are in their slots already.

        For whoever leads a run step by step; ``decode`` drives it to its end.
        """
        # A store of its own: what is computed along a record is nobody else's.
        settings = self.settings.replace(reuse_prefix=False)
        masks = [self.model.config.mask_id] * settings.gen_length
        handles = [
            self._handle(
                self._requests.of_ids(prompt, masks, settings, i),
                observer=observer,
                batch_size=batch_size,
            )
            for i, prompt in enumerate(ids)
        ]
        loop = self._layout.lay_out(handles, deque(handles), graphs=graphs)
        loop.admit()
        return loop
