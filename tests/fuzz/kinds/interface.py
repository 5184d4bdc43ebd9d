"""The Python interface, called with what is no argument of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skipstone import Engine, Model, Settings, load, open_trace, write_report
from skipstone.engine.settings import parse_settings, parse_spec
from skipstone.integrations.model_args import read_model_args
from skipstone.policies import KINDS as POLICIES
from tests.fuzz.case import Kind, Outcome, Scene, call
from tests.fuzz.kinds.arguments import PLAUSIBLE
from tests.fuzz.mutate import ODD_JSON, odd_text

_STRANGE: tuple[Any, ...] = (
    *(b"bytes", bytearray(b"x"), Path("x"), (), ("a",), {1}, object(), Settings, print),
    *(torch.zeros(2, 2), torch.tensor([1, 2]), torch.tensor(1.5), np.array([5, 6]), np.float32(1)),
    *(np.int64(3), 10**400, -1, 2**63, 1.5, float("nan"), True, None, "", "x" * 300, [], {}),
    *([{"role": "user", "content": "hi"}], [{"role": 3}], [[1, 2], [3]], ["a", "b"], [1, "b"]),
)


@cache
def _model(folder: Path) -> Model:
    return load(folder / "model")


def _strange(scene: Scene) -> Any:
    random = scene.random
    return random.choice(random.choice((_STRANGE, ODD_JSON)))


def _loaded(scene: Scene) -> Outcome:
    name = _strange(scene) if scene.random.random() < 0.4 else scene.sound / "model"
    keys = scene.random.sample(("device", "dtype", "local_files_only"), 1)
    options = {key: _strange(scene) for key in keys}
    return call(lambda: load(name, **options))


def _engine(scene: Scene) -> Outcome:
    random = scene.random
    names = random.sample(sorted(Settings.__dataclass_fields__), random.choice((1, 1, 2)))
    settings = {name: _strange(scene) for name in names}
    return call(lambda: Engine(_model(scene.sound), **settings))


def _generated(scene: Scene) -> Outcome:
    engine = Engine(_model(scene.sound), gen_length=4)
    prompt = _strange(scene)
    many = scene.random.random() < 0.5
    return call(lambda: engine.generate_batch(prompt) if many else engine.generate(prompt))


def _opened(scene: Scene) -> Outcome:
    act: Callable[[Any], object] = scene.random.choice((open_trace, _report_to))
    strange = _strange(scene)
    return call(lambda: act(strange) if isinstance(strange, str | Path) else act(Path("x")))


def _report_to(path: str | Path) -> object:
    return write_report([], path)


def _texts(scene: Scene) -> Outcome:
    """Settings, policies and model arguments, as texts."""
    random = scene.random
    options = {name: f"--{name.replace('_', '-')}" for name in Settings.__dataclass_fields__}
    names = [name for name, option in options.items() if option in PLAUSIBLE]

    def value(name: str) -> str:
        odd = random.random() < 0.5
        return odd_text(random) if odd else random.choice(PLAUSIBLE[options[name]])

    texts = {name: value(name) for name in random.sample(names, 3)}
    if random.random() < 0.2:
        texts[odd_text(random)] = odd_text(random)
    kind = random.choice(POLICIES)
    spec = " ".join(f"{name}={text}" for name, text in texts.items())
    return call(
        random.choice(
            (
                lambda: parse_settings(texts),
                lambda: parse_settings(parse_spec(spec)),
                lambda: kind.parse(value(kind.name)),
                lambda: read_model_args(texts),
            )
        )
    )


def _case(scene: Scene) -> Outcome:
    return scene.random.choice((_loaded, _engine, _generated, _opened, _texts, _texts))(scene)


KINDS = (Kind("interface", _case, 12),)
