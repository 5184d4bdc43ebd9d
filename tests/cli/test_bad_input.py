"""Bad input: each mistake gets its own line, which names the value, the rule and the remedy."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from skipstone import (
    CosineSkip,
    DualCache,
    Engine,
    Factor,
    Fixed,
    Model,
    PrefixCache,
    Settings,
    Threshold,
    load,
)
from skipstone.cli.main import run
from skipstone.engine import parse_settings, parse_spec
from skipstone.errors import SkipstoneError
from skipstone.models.folder import INDEX
from skipstone.testing.checkpoint import (
    LAYERS,
    TEMPLATE,
    VOCAB,
    random_weights,
    write_checkpoint,
    write_json,
)
from tests.helpers.busy import busy_seconds

SECONDS = 5
NAN = float("nan")


@dataclass(frozen=True)
class Place:
    """Where one case happens: a directory of its own, and a sound model shared by all."""

    here: Path
    sound: Path
    model: Model

    def engine(self) -> Engine:
        """An engine of the sound model with few new tokens."""
        return Engine(self.model, gen_length=4)


Act = Callable[[Place], object]
Argv = Callable[[Place], list[str]]

# ---------------------------------------------------------------- broken model directories


def _written(
    place: Place, template: object = TEMPLATE, config: Mapping[str, object] | None = None
) -> Path:
    return write_checkpoint(place.here / "model", shards=2, template=template, config=config)


def _without(file: str) -> Callable[[Place], Path]:
    def build(place: Place) -> Path:
        directory = _written(place)
        for path in directory.glob(file):
            path.unlink()
        return directory

    return build


def _with(file: str, content: bytes) -> Callable[[Place], Path]:
    def build(place: Place) -> Path:
        directory = _written(place)
        (directory / file).write_bytes(content)
        return directory

    return build


def _config(**fields: object) -> Callable[[Place], Path]:
    return lambda place: _written(place, config=fields)


def _template(template: object) -> Callable[[Place], Path]:
    return lambda place: _written(place, template=template)


def _cut(place: Place) -> Path:
    directory = _written(place)
    shard = directory / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    return directory


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Place], Path]:
    def build(place: Place) -> Path:
        weights = random_weights()
        change(weights)
        return write_checkpoint(place.here / "model", weights=weights)

    return build


def _put(name: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda weights: weights.update({f"model.transformer.{name}.weight": value})


def _pickled(place: Place) -> Path:
    directory = _written(place)
    for path in directory.glob("model*"):
        path.unlink()
    (directory / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    return directory


def _outside(place: Place) -> Path:
    directory = _written(place)
    write_json(directory / INDEX, {"weight_map": {"x": "../secret.safetensors"}})
    return directory


def _empty(place: Place) -> Path:
    directory = place.here / "model"
    directory.mkdir()
    return directory


# The messages are compared across the table with the directory left out, so that a path alone
# makes no message its own.
MODELS: dict[str, tuple[Callable[[Place], Path], list[str]]] = {
    "empty directory": (_empty, ["config.json does not exist", "holds config.json"]),
    "no tokenizer": (_without("tokenizer.json"), ["tokenizer.json does not exist", "copy it"]),
    "no weights": (_without("model*"), ["holds no weights", "download"]),
    "no index": (_without(INDEX), ["holds shards", INDEX, "download it too"]),
    "no second shard": (
        _without("model-00002*"),
        ["lacks 1 of 2 shards: model-00002-of-00002.safetensors", "download them again"],
    ),
    "cut shard": (_cut, ["model-00002-of-00002.safetensors is truncated", "download it again"]),
    "shard of text": (
        _with("model-00001-of-00002.safetensors", b"<html>404</html>"),
        ["00002.safetensors is truncated or no safetensors file", "download it again"],
    ),
    "empty shard": (
        _with("model-00001-of-00002.safetensors", b""),
        ["truncated or no safetensors file", "download it again"],
    ),
    "pickled only": (_pickled, ["only pickled weights (pytorch_model.bin)", "convert them"]),
    "index outside": (_outside, ["names ../secret.safetensors", "in the same directory"]),
    "index without map": (_with(INDEX, b"{}"), ["has no weight_map", "download it again"]),
    "index no json": (_with(INDEX, b"{"), [f"{INDEX} is not valid JSON", "download it again"]),
    "config no json": (_with("config.json", b"{,}"), ["config.json is not valid JSON"]),
    "config binary": (_with("config.json", b"\xff\xfe"), ["config.json is not valid", "utf-8"]),
    "config list": (_with("config.json", b"[1]"), ["config.json holds a list", "a JSON object"]),
    "tokenizer no json": (_with("tokenizer.json", b"x"), ["tokenizer.json is not a tokenizer"]),
    "tokenizer too large": (
        _config(vocab_size=200, embedding_size=200, mask_token_id=0, eos_token_id=1),
        ["tokenizer.json has id 261", "beyond the 200 ids", "same published checkpoint"],
    ),
    "mixture of experts": (
        _config(architectures=["LLaDAMoEModelLM"]),
        ["qk_layernorm is missing (must be True)", "use a LLaDA-MoE checkpoint"],
    ),
    "vision": (
        _config(architectures=["LlavaLLaDAModelLM"], model_type="llava_llada"),
        ["'LlavaLLaDAModelLM' is not supported", "LLaDA-V", "LLaDAModelLM"],
    ),
    "other block": (
        _config(block_type="sequential", rope=False),
        ["block_type='sequential' (must be 'llama'), rope=False (must be True)"],
    ),
    "no layers": (_config(n_layers=0), ["n_layers is 0", "at least 1", "copy config.json"]),
    "width of text": (_config(d_model="16"), ["d_model is '16'", "an integer"]),
    "no mask id": (_config(mask_token_id=None), ["mask_token_id is missing", "an integer"]),
    "mask is eos": (_config(mask_token_id=257), ["both 257", "must differ"]),
    "mask outside": (_config(mask_token_id=VOCAB), ["mask_token_id is 264", "vocabulary of 264"]),
    "heads": (_config(n_heads=5, n_kv_heads=5), ["d_model 16 over n_heads 5", "check both"]),
    "key value heads": (_config(n_kv_heads=3), ["n_heads 4 is not a multiple of n_kv_heads 3"]),
    "too many layers": (
        _config(n_layers=10**6),
        ["21 tensors, too few for the 1000000 layers", "same published checkpoint"],
    ),
    "one layer too many": (
        _config(n_layers=3),
        ["blocks.2.attn_norm.weight is missing", "and 1 more", "same published checkpoint"],
    ),
    "one layer too few": (
        _config(n_layers=1),
        ["blocks.1.attn_norm.weight is not a tensor of this architecture"],
    ),
    "wide mlp": (_config(mlp_hidden_size=32), ["has shape [24, 16], expected [32, 16]"]),
    "long": (_config(max_sequence_length=10**9), ["max_sequence_length is 1000000000", "at most"]),
    "nan": (
        _weights(_put("ln_f", torch.full((16,), NAN))),
        ["ln_f.weight has NaN or infinite values", "download them again"],
    ),
    "infinite": (
        _weights(_put("blocks.1.ff_norm", torch.full((16,), torch.inf))),
        ["blocks.1.ff_norm.weight has NaN or infinite values"],
    ),
    "mixed dtypes": (
        _weights(_put("ln_f", torch.ones(16, dtype=torch.bfloat16))),
        ["mixed dtypes (1 in BF16, 20 in F32)", "--dtype float32"],
    ),
    "quantised": (
        _weights(_put("blocks.0.q_proj", torch.ones(16, 16, dtype=torch.int8))),
        ["stored as I8 (model.transformer.blocks.0.q_proj.weight)", "use the original"],
    ),
    "extra": (
        _weights(_put("wpe", torch.ones(3))),
        ["model.transformer.wpe.weight is not a tensor of this architecture"],
    ),
    "template reaches out": (
        _template("{{ cycler.__init__.__globals__.os.popen('id') }}"),
        ["template reaches for something unsafe", "'__init__'", "use a template you trust"],
    ),
    "template digs": (
        _template("{{ ''.__class__.__mro__ }}"),
        ["template reaches for something unsafe", "'__class__'", "use a template you trust"],
    ),
    "template runs on": (
        _template("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"),
        ["takes too much time or memory", "more work than", "use a template you trust"],
    ),
    "template of huge range": (
        _template("{% for a in range(10**9) %}{% endfor %}"),
        ["the chat template", "10"],
    ),
    "template unfinished": (
        _template("{% for m in messages %}"),
        ["the chat template does not parse", "use the template of the published checkpoint"],
    ),
    "template undefined": (
        _template("{{ system.prompt }}"),
        ["the chat template fails ('system' is undefined)"],
    ),
    "templates": (_template([{"name": "x"}]), ["chat_template is a list", "no name and template"]),
    "template file": (_with("chat_template.jinja", b"\xff"), ["chat_template.jinja cannot be"]),
    "settings list": (
        _with("tokenizer_config.json", b"[]"),
        ["tokenizer_config.json holds a list"],
    ),
}

# ---------------------------------------------------------------- the command line


def _argv(*arguments: str) -> Argv:
    """``generate`` with the sound model."""
    return lambda place: ["generate", *arguments, "--model", str(place.sound)]


def _pair(a: str, b: str, *more: str) -> Argv:
    """``compare`` with the sound model."""
    return lambda place: ["compare", "hi", "--a", a, "--b", b, "--model", str(place.sound), *more]


def _batch(content: bytes | None, name: str = "prompts.txt", *more: str) -> Argv:
    def build(place: Place) -> list[str]:
        file = place.here / name
        if content is not None:
            file.write_bytes(content)
        return ["generate", "--batch-file", str(file), "--model", str(place.sound), *more]

    return build


COMMANDS: dict[str, tuple[Argv, list[str]]] = {
    "unknown command": (lambda _: ["generat", "hi"], ["'generat'", "did you mean 'generate'?"]),
    "strange command": (lambda _: ["zzz"], ["'zzz' is unknown", "known: audit, bench, compare"]),
    "unknown option": (
        _argv("hi", "--gen-lenght", "3"),
        ["'--gen-lenght' is unknown", "did you mean '--gen-length'?"],
    ),
    "option without value": (
        lambda _: ["generate", "hi", "--gen-length"],
        ["--gen-length", "requires an argument"],
    ),
    "flag with value": (_argv("hi", "--json=3"), ["--json", "does not take a value"]),
    "two prompts": (_argv("hi", "there"), ["unexpected extra argument (there)"]),
    "no prompt": (_argv(), ["give exactly one of PROMPT", "found none"]),
    "prompt and ids": (_argv("hi", "--prompt-ids", "5"), ["found PROMPT and --prompt-ids"]),
    "empty prompt": (_argv(""), ["the prompt is empty", "give at least one word"]),
    "half a character": (_argv("a\udcff"), ["not valid Unicode", "character 1", "as UTF-8"]),
    "long prompt": (
        _argv("x" * 500, "--gen-length", "8"),
        ["together", "more than the model's 128", "shorten one"],
    ),
    "long answer": (
        _argv("--prompt-ids", "5,6", "--gen-length", "127"),
        ["has 2 tokens and gen_length is 127: together 129", "shorten one"],
    ),
    "ids of words": (_argv("--prompt-ids", "a,b"), ["'a,b'", "whole numbers", "like 5,17,3"]),
    "ids with a hole": (_argv("--prompt-ids", "5,,7"), ["'5,,7'", "whole numbers", "like 5,17,3"]),
    "id outside": (_argv("--prompt-ids", "5,264"), ["holds id 264", "vocabulary of 264", "0 to"]),
    "negative id": (_argv("--prompt-ids=-1"), ["holds id -1", "vocabulary of 264", "0 to 263"]),
    "no batch file": (_batch(None), ["prompts.txt' cannot be read (No such file"]),
    "empty batch file": (_batch(b"\n\n"), ["prompts.txt' has no prompts", "write one a line"]),
    "binary batch file": (_batch(b"a\xff\xfe"), ["prompts.txt' is not UTF-8", "convert it"]),
    "batch of no json": (_batch(b'{"prompt": "a"}\n{', "p.jsonl"), ["line 2 is not JSON"]),
    "batch without prompt": (_batch(b'{"text": "a"}', "p.jsonl"), ["line 1", '"prompt"']),
    "no places": (
        _batch(b"a\nb", "p.txt", "--batch-size", "0"),
        ["--batch-size is 0", "at least 1"],
    ),
    "no length": (_argv("hi", "--gen-length", "0"), ["gen_length is 0", "at least 1"]),
    "length of words": (_argv("hi", "--gen-length", "ten"), ["'ten'", "a whole number"]),
    "broken length": (_argv("hi", "--gen-length", "1.5"), ["'1.5'", "a whole number"]),
    "negative block": (_argv("hi", "--block-length=-4"), ["block_length is -4", "at least 1"]),
    "too few steps": (
        _argv("hi", "--unmask", "fixed", "--gen-length", "64", "--steps", "1"),
        ["steps is 1", "between 2", "64"],
    ),
    "too many steps": (
        _argv("hi", "--unmask", "fixed", "--gen-length", "64", "--steps", "65"),
        ["steps is 65", "between one for each block and 64"],
    ),
    "negative seed": (
        _argv("hi", "--seed=-3", "--temperature", "1"),
        ["seed is -3", "between 0 and"],
    ),
    "negative temperature": (_argv("hi", "--temperature=-1"), ["temperature is -1.0", "0 or more"]),
    "temperature of words": (_argv("hi", "--temperature", "hot"), ["'hot'", "a number"]),
    "unknown budget": (_argv("hi", "--budget", "finsh"), ["'finsh'", "did you mean 'finish'?"]),
    "unknown cache": (_argv("hi", "--cache", "duel"), ["'duel'", "did you mean 'dual'?"]),
    "unknown unmask": (_argv("hi", "--unmask", "treshold"), ["'treshold'", "mean 'threshold'?"]),
    "unknown skip": (_argv("hi", "--skip", "cosin"), ["'cosin'", "did you mean 'cosine'?"]),
    "strange cache": (
        _argv("hi", "--cache", "zz"),
        ["'zz'", "known: d2cache, dkv, dllm, dual, dyllm, elastic, none, once, prefix, sparse"],
    ),
    "unknown setting": (
        _argv("hi", "--unmask", "threshold:valu=1"),
        ["'threshold' has no setting 'valu'", "did you mean 'value'?"],
    ),
    "setting of none": (_argv("hi", "--skip", "none:x=1"), ["no setting 'x'", "has no settings"]),
    "setting without value": (_argv("hi", "--unmask", "factor:value"), ["write value=VALUE"]),
    "setting twice": (
        _argv("hi", "--unmask", "factor:value=1,value=2"),
        ["'value' of 'factor' is given twice", "give it once"],
    ),
    "setting of words": (_argv("hi", "--unmask", "factor:value=big"), ["'big'", "a number"]),
    "threshold above 1": (
        _argv("hi", "--unmask", "threshold:value=1.5"),
        ["threshold value is 1.5", "between 0 and 1"],
    ),
    "factor of 0": (_argv("hi", "--unmask", "factor:value=0"), ["factor value is 0.0", "positive"]),
    "skip threshold": (
        _argv("hi", "--skip", "cosine:skip_threshold=1.5"),
        ["skip_threshold is 1.5", "between -1 and 1"],
    ),
    "skip outlier": (
        _argv("hi", "--skip", "cosine:skip_outlier=-3"),
        ["skip_outlier is -3.0", "between -1 and 1"],
    ),
    "skip layer 1": (_argv("hi", "--skip", "cosine:skip_layer_k=1"), ["is 1", "at least 2"]),
    "skip layer too deep": (
        _argv("hi", "--skip", f"cosine:skip_layer_k={LAYERS + 1}"),
        ["skip_layer_k is 3, beyond the 2 layers", "use 2 to 2"],
    ),
    "skip dtype": (
        _argv("hi", "--skip", "cosine:similarity_dtype=float31"),
        ["'float31'", "did you mean 'float32'?"],
    ),
    "keep perhaps": (
        _argv("hi", "--skip", "cosine:keep_committed=perhaps"),
        ["keep_committed is 'perhaps'", "true or false"],
    ),
    "negative refresh": (
        _argv("hi", "--cache", "dual:refresh_every=-1"),
        ["refresh_every is -1", "or more"],
    ),
    "unknown dtype": (
        _argv("hi", "--dtype", "bfloat15"),
        ["'bfloat15'", "did you mean 'bfloat16'?"],
    ),
    "unknown device": (_argv("hi", "--device", "gpu"), ["device 'gpu'", "use 'cpu' or 'auto'"]),
    "device without values": (_argv("hi", "--device", "meta"), ["'meta' holds no values"]),
    "misspelt model": (
        lambda _: ["generate", "hi", "--model", "pebbel"],
        ["model 'pebbel' not found", "did you mean 'pebble'?"],
    ),
    "no such directory": (
        lambda _: ["generate", "hi", "--model", "./nowhere"],
        ["model './nowhere' not found", "use 'pebble', a directory, or a hub name"],
    ),
    "model not here": (
        lambda _: ["generate", "hi", "--model", "some-org/absent"],
        ["'some-org/absent'", "run: "],
    ),
    "model is a file": (
        lambda place: ["generate", "hi", "--model", str(place.sound / "config.json")],
        ["is a file", "give the directory"],
    ),
    "no spec a": (lambda _: ["compare", "hi", "--b", "cache=dual"], ["Missing option '--a'"]),
    "no spec b": (lambda _: ["compare", "hi", "--a", "cache=dual"], ["Missing option '--b'"]),
    "compare nothing": (
        lambda _: ["compare", "--a", "cache=dual", "--b", "cache=none"],
        ["exactly one of PROMPT and --prompt-ids"],
    ),
    "spec without value": (_pair("cache", "cache=dual"), ["'cache' in a run spec", "key=value"]),
    "spec twice": (_pair("seed=1 seed=2", "seed=1"), ["'seed' is given twice", "give it once"]),
    "spec unknown": (_pair("cache=dual", "cahce=dual"), ["'cahce'", "did you mean 'cache'?"]),
    "spec strange": (
        _pair("cache=dual", "qq=1"),
        ["'qq' is unknown", "known: absolute_blocks, block_length"],
    ),
    "spec of a bad policy": (_pair("skip=cosines", "cache=dual"), ["'cosines'", "'cosine'?"]),
    "spec of a bad number": (
        _pair("cache=dual", "unmask=threshold:value=-0.5"),
        ["threshold value is -0.5", "between 0 and 1"],
    ),
    "spec of a bad dtype": (_pair("dtype=float33", "cache=dual"), ["'float33'", "'float32'?"]),
}

# ---------------------------------------------------------------- Python

FUNCTIONS: dict[str, tuple[Act, list[str]]] = {
    "gen_length": (lambda _: Settings(gen_length=-1), ["gen_length is -1", "at least 1"]),
    "block_length": (lambda _: Settings(block_length=0), ["block_length is 0", "at least 1"]),
    "steps": (
        lambda _: Settings(unmask=Fixed(), steps=-1),
        ["steps is -1", "between one for each block"],
    ),
    "steps for blocks": (
        lambda _: Settings(unmask=Fixed(), block_length=32, steps=3),
        ["steps is 3", "between 4 (one for each block) and 128"],
    ),
    "temperature": (lambda _: Settings(temperature=NAN), ["temperature is nan", "0 or more"]),
    "infinite temperature": (lambda _: Settings(temperature=torch.inf), ["is inf", "finite"]),
    "large seed": (
        lambda _: Settings(seed=2**63, temperature=1),
        ["seed is 9223372036854775808", "2**63 - 1"],
    ),
    "factor": (lambda _: Factor(-1.0), ["factor value is -1.0", "positive and finite"]),
    "infinite factor": (lambda _: Factor(torch.inf), ["factor value is inf", "finite"]),
    "threshold": (lambda _: Threshold(1.01), ["threshold value is 1.01", "between 0 and 1"]),
    "nan threshold": (lambda _: Threshold(NAN), ["threshold value is nan", "between 0 and 1"]),
    "skip_layer_k": (lambda _: CosineSkip(skip_layer_k=0), ["skip_layer_k is 0", "at least 2"]),
    "skip_threshold": (
        lambda _: CosineSkip(skip_threshold=NAN),
        ["skip_threshold is nan", "between -1 and 1"],
    ),
    "skip_outlier": (
        lambda _: CosineSkip(skip_outlier=1.01),
        ["skip_outlier is 1.01", "between -1 and 1"],
    ),
    "depth": (
        lambda place: Engine(place.model, skip=CosineSkip()),
        ["skip_layer_k is 18, beyond the 2 layers", "use 2 to 2"],
    ),
    "prefix refresh": (lambda _: PrefixCache(refresh_every=-2), ["refresh_every is -2"]),
    "dual refresh": (lambda _: DualCache(refresh_every=-3), ["refresh_every is -3", "or more"]),
    "empty ids": (
        lambda place: place.engine().generate([]),
        ["the prompt is empty", "one token id"],
    ),
    "second prompt of ids": (
        lambda place: place.engine().generate_batch([[1], [2, 999]]),
        ["prompt 1 holds id 999", "vocabulary of 264"],
    ),
    "float id": (
        lambda place: place.engine().generate([1.5]),  # pyrefly: ignore[bad-argument-type]
        ["the prompt holds 1.5", "whole numbers"],
    ),
    "no prompts": (lambda place: place.engine().generate_batch([]), ["at least one prompt"]),
    "one long prompt": (
        lambda place: place.engine().generate([1] * 125),
        ["has 125 tokens and gen_length is 4: together 129, more than the model's 128"],
    ),
    "long second prompt": (
        lambda place: place.engine().generate_batch([[1], [1] * 126]),
        ["prompt 1 has 126 tokens", "shorten one"],
    ),
    "text key": (lambda _: parse_settings({"blok_length": "8"}), ["'blok_length'", "mean 'block"]),
    "text bool": (lambda _: parse_settings({"eos_stop": "yes"}), ["'yes'", "true or false"]),
    "text number": (lambda _: parse_settings({"block_length": "8.5"}), ["'8.5'", "whole number"]),
    "text of nothing": (
        lambda _: parse_settings({"unmask": ""}),
        ["'' is unknown", "known: certainty"],
    ),
    "text interval": (
        lambda _: parse_settings({"cache": "prefix:refresh_every=x"}),
        ["prefix:refresh_every is 'x'", "a whole number"],
    ),
    "text order": (
        lambda _: parse_settings({"unmask": "fixed:order=randm"}),
        ["order is 'randm'", "did you mean 'random'?"],
    ),
    "text reference": (
        lambda _: parse_settings({"skip": "cosine:reference=previous"}),
        ["reference is 'previous'", "did you mean 'previous_step'?"],
    ),
    "spec": (lambda _: parse_spec("cache=dual skip"), ["'skip' in a run spec", "key=value"]),
    "spec end": (lambda _: parse_spec("unmask="), ["'unmask=' in a run spec", "key=value"]),
    "spec again": (lambda _: parse_spec("cache=a cache=b"), ["'cache' is given twice"]),
    "load nothing": (lambda _: load(""), ["model '' not found", "use 'pebble'"]),
    "load path": (lambda place: load(place.here / "x"), ["not found", "it is no directory"]),
    "load dtype": (lambda place: load(place.sound, dtype="int8"), ["'int8'", "known: auto"]),
    "load device": (
        lambda place: load(place.sound, device="tpu"),
        ["device 'tpu'", "use 'cpu' or 'auto'"],
    ),
    "overflow": (
        lambda place: load(
            _weights(_put("ln_f", torch.full((16,), 1e9)))(place), device="cpu", dtype="float16"
        ),
        ["ln_f.weight has values that overflow float16", "dtype='float32'"],
    ),
}

# ---------------------------------------------------------------- running them


@dataclass(frozen=True)
class Outcome:
    """What one case gave."""

    message: str
    fragments: list[str]
    seconds: float
    code: int = 2
    stdout: str = ""


def _run_command(argv: list[str], fragments: list[str]) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    started = busy_seconds()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(argv)
    seconds = busy_seconds() - started
    return Outcome(err.getvalue(), fragments, seconds, code, out.getvalue())


def _run_function(act: Callable[[], object], fragments: list[str]) -> Outcome:
    started = busy_seconds()
    with pytest.raises(SkipstoneError) as caught:
        act()
    return Outcome(f"{caught.value}\n", fragments, busy_seconds() - started)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    """A model that nothing is wrong with."""
    directory = write_checkpoint(tmp_path_factory.mktemp("sound") / "model")
    return directory, load(directory, device="cpu")


@pytest.fixture
def place(tmp_path: Path, sound: tuple[Path, Model], monkeypatch: pytest.MonkeyPatch) -> Place:
    """Where a case happens; the hub is out of reach."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, *sound)


def _model_argv(place: Place, name: str) -> list[str]:
    return ["generate", "hi", "--device", "cpu", "--model", str(MODELS[name][0](place))]


def _check(outcome: Outcome) -> None:
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert outcome.message.endswith("\n")
    assert outcome.message.count("\n") == 1, outcome.message
    assert "Traceback" not in outcome.message
    assert "internal error" not in outcome.message
    assert outcome.seconds < SECONDS
    for fragment in outcome.fragments:
        assert fragment in outcome.message, outcome.message


@pytest.mark.parametrize("name", MODELS)
def test_broken_models_on_the_command_line(place: Place, name: str) -> None:
    _check(_run_command(_model_argv(place, name), MODELS[name][1]))


@pytest.mark.parametrize("name", COMMANDS)
def test_bad_command_lines(place: Place, name: str) -> None:
    build, fragments = COMMANDS[name]
    outcome = _run_command(build(place), fragments)
    assert outcome.message.startswith("skipstone: error: ")
    _check(outcome)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bad_calls(place: Place, name: str) -> None:
    act, fragments = FUNCTIONS[name]
    _check(_run_function(lambda: act(place), fragments))


@pytest.mark.parametrize("name", MODELS)
def test_broken_models_in_python(place: Place, name: str) -> None:
    """The same words as on the command line: a load and a prompt."""
    build, fragments = MODELS[name]
    directory = build(place)
    _check(
        _run_function(
            lambda: Engine(load(directory, device="cpu"), gen_length=4).generate("hi"), fragments
        )
    )


def test_every_mistake_has_its_own_message(place: Place) -> None:
    seen = dict[str, str]()
    for name, outcome in _all_outcomes(place):
        # Told apart by what the message says, never by where the files lie.
        message = outcome.message.removeprefix("skipstone: error: ")
        message = message.replace(str(place.here), "HERE").replace(str(place.sound), "SOUND")
        assert message not in seen, f"{name!r} and {seen[message]!r} read the same: {message}"
        seen[message] = name


def _all_outcomes(place: Place) -> Iterator[tuple[str, Outcome]]:
    for name, (command, _) in COMMANDS.items():
        yield name, _run_command(command(place), [])
    for name, (act, _) in FUNCTIONS.items():
        yield name, _run_function(partial(act, place), [])
    for name in MODELS:
        shutil.rmtree(place.here / "model", ignore_errors=True)
        yield name, _run_command(_model_argv(place, name), [])


def test_there_are_at_least_sixty() -> None:
    assert len(MODELS) + len(COMMANDS) + len(FUNCTIONS) >= 60


def test_the_sound_model_answers(place: Place) -> None:
    """The control: what the cases change is what breaks."""
    argv = _argv("hi", "--gen-length", "4", "--device", "cpu")(place)
    assert _run_command(argv, []).code == 0


@pytest.mark.parametrize("name", ["skip layer too deep", "unknown option"])
def test_bad_command_lines_in_a_process_of_their_own(place: Place, name: str) -> None:
    build, fragments = COMMANDS[name]
    _check(_run_process(build(place), fragments))


@pytest.mark.parametrize("name", ["template reaches out", "cut shard"])
def test_broken_models_in_a_process_of_their_own(place: Place, name: str) -> None:
    _check(_run_process(_model_argv(place, name), MODELS[name][1]))


def _run_process(argv: list[str], fragments: list[str]) -> Outcome:
    before = _children_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "skipstone", *argv],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    seconds = _children_seconds() - before
    return Outcome(done.stderr, fragments, seconds, done.returncode, done.stdout)


def _children_seconds() -> float:
    """Processor time of finished child processes; other work on the machine does not count."""
    used = os.times()
    return used.children_user + used.children_system
