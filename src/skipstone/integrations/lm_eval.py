"""Skipstone as a model of the lm-evaluation-harness (extra ``lm-eval``).

The harness finds models by an import, so either run its command line through this module,

    python -m skipstone.integrations.lm_eval run --model skipstone --model_args ... --tasks ...

or import this module before calling ``lm_eval.simple_evaluate(model="skipstone", ...)``.

Generation runs the engine under the settings given. Likelihoods need no decoding: they are
estimated as ``skipstone.engine.score.likelihood`` says, and the greedy flag says whether decoding
one token a step without cache, the most confident first, gives the answer (LLaDA's rule).
"""

from __future__ import annotations

import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from skipstone.engine import Engine, Settings
from skipstone.engine.defaults import with_defaults
from skipstone.engine.score.likelihood import (
    LikelihoodRequest,
    batches,
    greedy_flags,
    log_likelihoods,
)
from skipstone.errors import ConfigError, PromptError, SkipstoneError, nearest
from skipstone.extras import missing
from skipstone.integrations.model_args import read_model_args
from skipstone.models.load import load
from skipstone.quoting import shown

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.utils import (
        get_rolling_token_windows,
        make_disjoint_window,
        simple_parse_args_string,
    )
    from tqdm import tqdm
except ModuleNotFoundError:
    _absent = missing("lm_eval", "the model of the lm-evaluation-harness", "lm-eval")
    if __name__ == "__main__":
        sys.exit(f"skipstone: error: {_absent}")
    raise _absent from None

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

_log = logging.getLogger(__name__)

# What shapes a random draw, and therefore nothing at temperature 0.
_DRAWING = ("min_p",)
# Prompts for each place of a batch that are handed over together. With more, places are empty less
# often; but the harness' cache gets answers only once all of them are there.
_PROMPTS_OF_A_PLACE = 8
_SETTINGS = ("temperature", "top_p", "top_k")
_KNOWN = ("until", "max_gen_toks", "do_sample", *_SETTINGS)


@register_model("skipstone")
class SkipstoneLM(TemplateLM):
    """One model under one set of settings, asked by the harness."""

    def __init__(self, **model_args: object) -> None:
        """Load the model.

        Args:
            model_args: ``model``, ``device``, ``dtype``, ``batch_size``, the settings of a run,
                ``mc_num``, ``mc_seed`` and ``check_greedy``; as text or as plain values.

        Raises:
            ConfigError: a name is unknown or a value is refused.
            CheckpointError: the model is not found or cannot be loaded.
        """
        super().__init__()
        self.args = read_model_args(model_args)
        self.model = load(
            self.args.setup.model, device=self.args.setup.device, dtype=self.args.setup.dtype
        )
        self._engine = Engine(self.model, self.args.settings)
        self._said = set[str]()

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> SkipstoneLM:
        """What the harness calls with ``model_args`` as text."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> SkipstoneLM:
        """What the harness calls; ``model_args`` win over its own options."""
        options = {n: v for n, v in (additional_config or {}).items() if v is not None}
        # The harness' command line says cuda:0 if the user says nothing.
        if options.get("device") == "cuda:0" and not torch.cuda.is_available():
            del options["device"]
        return cls(**options | arg_dict)

    @property
    def eot_token_id(self) -> int:
        """EOS; the harness puts it before an answer that has no context."""
        return self.model.config.eos_id

    @property
    def tokenizer_name(self) -> str:
        """Names the chat template where the harness stores rendered requests."""
        return self.args.setup.model.replace("/", "__")

    def get_model_info(self) -> dict[str, object]:
        """What the harness writes into its results."""
        return {
            "model_num_parameters": self.model.config.num_parameters,
            "model_dtype": str(self.model.network.dtype),
            "model_fingerprint": self.model.fingerprint,
            "skipstone_settings": self._engine.settings.as_text(),
            "mc_num": self.args.likelihood.mc_num,
            "mc_seed": self.args.likelihood.mc_seed,
        }

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The model's chat template, which the harness records.

        Raises:
            ConfigError: a template is asked for by name, or the model has none.
        """
        if isinstance(chat_template, str):
            raise ConfigError(
                f"chat template {shown(chat_template)} is asked for by name, but a model has one "
                f"at most; give --apply_chat_template alone"
            )
        if chat_template and self.model.text.template is None:
            raise ConfigError(
                f"model {shown(self.args.setup.model)} has no chat template; leave out "
                f"--apply_chat_template"
            )
        return self.model.text.template if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text; without generation prompt its last turn is left open."""
        text = self.model.text.render(chat_history, add_generation_prompt=add_generation_prompt)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].rstrip()
        return text[: text.rindex(last) + len(last)]

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: object
    ) -> list[int]:
        """Ids of a text; the names of special tokens are read as such, as chat templates need."""
        return self.model.text.encode_rendered(string)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Decode each request, and cut the answer at its first stop string.

        Raises:
            ConfigError: a generation argument is unknown or has no meaning here.
        """
        answers, notes, places = [""] * len(requests), list[str](), self.args.setup.batch_size
        # One prompt at a time leaves no place empty.
        chunk = places * _PROMPTS_OF_A_PLACE if places > 1 else 1
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Decoding") as bar:
            for settings, group in self._by_settings(requests).items():
                engine, idle = Engine(self.model, settings), settings.idle()
                for note in idle:
                    self._say(note)
                ids = {i: self._prompt(requests[i], settings) for i in group}
                longest_first = sorted(group, key=lambda i: -len(ids[i]))
                for batch in batches(longest_first, chunk):
                    prompts = [ids[i] for i in batch]
                    results = engine.generate_batch(prompts, batch_size=min(places, len(prompts)))
                    for i, result in zip(batch, results, strict=True):
                        answers[i] = _cut(result.text, requests[i])
                        self.cache_hook.add_partial("generate_until", requests[i].args, answers[i])
                        notes.extend(result.notes[len(idle) :][:1])
                    bar.update(len(batch))
        if notes:
            _log.warning("%d of %d answers: %s", len(notes), len(answers), notes[0])
        return answers

    def _prompt(self, request: Instance, settings: Settings) -> list[int]:
        longest = self.model.config.max_length
        if settings.gen_length >= longest:
            raise ConfigError(
                f"gen_length={settings.gen_length} leaves no room for a prompt in the model's "
                f"{longest} positions; make it smaller"
            )
        return self._shortened(self.tok_encode(request.args[0]), longest - settings.gen_length)

    def _by_settings(self, requests: Sequence[Instance]) -> dict[Settings, list[int]]:
        """Requests that can be decoded together. A request asked again is drawn anew."""
        asked = Counter[int]()
        groups = defaultdict[Settings, list[int]](list)
        for i, request in enumerate(requests):
            settings = with_defaults(self._settings(_asked(request)), self.model)
            if settings.temperature > 0 or settings.unmask.uses_seed:
                settings = settings.replace(seed=(settings.seed or 0) + asked[id(request)])
                asked[id(request)] += 1
            groups[settings].append(i)
        return groups

    def _settings(self, gen_kwargs: Mapping[str, Any]) -> Settings:
        """The settings of one request: what ``model_args`` leave open, the task may set."""
        own = self.args.settings
        wanted = normalize_gen_kwargs(dict(gen_kwargs), default_max_gen_toks=own.gen_length)
        settings = self._task_may("gen_length", wanted["max_gen_toks"], own)
        # Temperature first: at 0 nothing is drawn, and what a task says of draws means nothing.
        for name in _SETTINGS:
            if name in wanted and (name == "temperature" or settings.temperature > 0):
                settings = self._task_may(name, wanted[name], settings)
        for name in wanted:
            if name in _KNOWN or (name in _DRAWING and settings.temperature == 0):
                continue
            raise ConfigError(
                f"generation argument {shown(name)} is unknown; {nearest(name, _KNOWN)}"
            )
        return settings

    def _task_may(self, name: str, value: float, settings: Settings) -> Settings:
        if name in self.args.given and getattr(settings, name) != value:
            kept = getattr(settings, name)
            self._say(f"the task asks for {name}={value}; {name}={kept} of model_args is kept")
            return settings
        changes: dict[str, Any] = {name: value}
        return settings.replace(**changes)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: object,
    ) -> list[tuple[float, bool]]:
        self._say_what_is_idle()
        limit = self.model.config.max_length
        questions = list[LikelihoodRequest]()
        for (_, text), context, answer in requests:
            if not 0 < len(answer) < limit:
                raise PromptError(
                    f"the answer {shown(text)} has {len(answer)} tokens of its own, must have 1 to "
                    f"{limit - 1}"
                )
            kept = self._shortened(context, limit - len(answer))
            questions.append(LikelihoodRequest(tuple(kept), tuple(answer)))
        greedy = self._greedy(questions, disable_tqdm)
        found = [(0.0, False)] * len(requests)
        for i, score in self._estimates(questions, disable_tqdm):
            found[i] = (score, greedy[i])
            self.cache_hook.add_partial("loglikelihood", requests[i][0], found[i])
        return found

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Estimate the log-likelihood of whole texts, in windows of the model's length.

        The first window is given EOS, others the token before them, the last one all that fits.
        """
        self._say_what_is_idle()
        questions, owners = list[LikelihoodRequest](), list[int]()
        for i, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            longest = self.model.config.max_length - 1
            for window in get_rolling_token_windows(ids, self.prefix_token_id, longest, 1):
                context, answer = make_disjoint_window(window)
                questions.append(LikelihoodRequest(tuple(context), tuple(answer)))
                owners.append(i)
        totals = [0.0] * len(requests)
        for index, score in self._estimates(questions, disable_tqdm):
            totals[owners[index]] += score
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _estimates(
        self, questions: Sequence[LikelihoodRequest], disable_tqdm: bool
    ) -> tqdm[tuple[int, float]]:
        how, batch_size = self.args.likelihood, self.args.setup.batch_size
        return tqdm(
            log_likelihoods(self.model, questions, how, batch_size=batch_size),
            total=len(questions),
            disable=disable_tqdm,
            desc="Likelihoods",
        )

    def _greedy(
        self, questions: Sequence[LikelihoodRequest], disable_tqdm: bool
    ) -> dict[int, bool]:
        if not self.args.setup.check_greedy:
            return dict.fromkeys(range(len(questions)), False)
        flags = greedy_flags(self.model, questions, batch_size=self.args.setup.batch_size)
        bar = tqdm(flags, total=len(questions), disable=disable_tqdm, desc="Greedy answers")
        return dict(bar)

    def _shortened(self, ids: list[int], room: int) -> list[int]:
        """The end of a context that is too long, as other models of the harness do."""
        if len(ids) > room:
            self._say(f"contexts longer than {room} tokens lose their beginning")
        return ids[-room:]

    def _say_what_is_idle(self) -> None:
        idle = [name for name in self.args.given if name in Settings.__dataclass_fields__]
        if idle:
            self._say(f"likelihoods need no decoding; without effect on them: {', '.join(idle)}")

    def _say(self, message: str) -> None:
        """Warn, once."""
        if message not in self._said:
            self._said.add(message)
            _log.warning(message)


def _asked(request: Instance) -> dict[str, Any]:
    """The generation arguments of a request."""
    _, gen_kwargs = request.args
    return gen_kwargs


def _cut(text: str, request: Instance) -> str:
    """The text before the first stop string of a request."""
    return postprocess_generated_text(text, _asked(request).get("until"), None)


def main() -> None:
    """The harness' own command line, with this model known; our errors are one line."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except SkipstoneError as error:
        sys.exit(f"skipstone: error: {error}")


if __name__ == "__main__":
    main()
