"""What a peer is: published code that decodes our weights, and the settings it is held against.

Shape letters: G new tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from torch import Tensor

from skipstone.bench.plan import Generation
from skipstone.engine import Settings
from skipstone.errors import ConfigError
from skipstone.models.load import Model
from skipstone.quoting import one_line


class Peer(Protocol):
    """Published code, holding our weights."""

    @property
    def sides(self) -> tuple[str, ...]:
        """The ways in which it decodes; the first gives our tokens, if nothing is rounded."""
        ...

    @property
    def note(self) -> str:
        """What of it is not as published, and by which packages it runs."""
        ...

    def refusal(self, wanted: Generation) -> str | None:
        """Why it cannot decode a generation; None if it can."""
        ...

    def ours(self, settings: Settings) -> Settings:
        """What we decode by, so that its first side has our rule and our cache.

        Args:
            settings: of a forced schedule.
        """
        ...

    def decode(self, side: str, model: Model, wanted: Generation) -> tuple[Tensor, int]:
        """New ids [G], and the number of forwards."""
        ...


@dataclass(frozen=True)
class PeerCode:
    """Where the code of a peer is found, and how it is made to run."""

    name: str
    title: str
    url: str
    folders: tuple[str, ...]
    """Within a checkout; the first that has all files is taken, else the checkout itself."""
    files: tuple[str, ...]
    needs: tuple[str, ...]
    """Packages."""
    written_for: str
    """The version of transformers."""
    made: Callable[[Path, Model], Peer]

    def find(self, path: str) -> Path:
        """The folder that has its files.

        Raises:
            ConfigError: there is none, or what it needs is missing.
        """
        places = [Path(path) / folder for folder in (*self.folders, "")]
        found = next((p for p in places if all((p / f).is_file() for f in self.files)), None)
        if found is None:
            within = f", nor in its {' or '.join(self.folders)} folder" if self.folders else ""
            raise ConfigError(
                f"{path} is no checkout of {self.title}: {', '.join(self.files)} are not all in "
                f"it{within}; clone {self.url}"
            )
        if missing := [package for package in self.needs if find_spec(package) is None]:
            raise ConfigError(
                f"{self.title} needs {' and '.join(missing)} installed; run: pip install "
                f"{' '.join(missing)}"
            )
        return found.resolve()


@dataclass(frozen=True)
class Checkout:
    """A peer's code in a folder of this machine."""

    code: PeerCode
    folder: Path

    @property
    def name(self) -> str:
        """Of the peer."""
        return self.code.name

    def build(self, model: Model) -> Peer:
        """Its model at our shape, holding our very weights.

        Raises:
            ConfigError: its code does not run here, or with this model.
        """
        try:
            return self.code.made(self.folder, model)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{self.code.title}'s code in {self.folder} cannot be used ({one_line(error)}); it "
                f"was written for transformers {self.code.written_for}"
            ) from error


def beyond_one_prompt(wanted: Generation) -> str | None:
    """What is asked for that only we can do; None if it is one prompt without token skip."""
    if wanted.batch != 1:
        return "it decodes one prompt at a time"
    if wanted.skip_layer_k:
        return "it has no token skip"
    return None


def check_architecture(model: Model, name: str, title: str) -> None:
    """Refuse weights that a peer has no model for.

    Raises:
        ConfigError: they are of another architecture.
    """
    if model.config.architecture != name:
        raise ConfigError(
            f"the peer runs {title}, and {model.name} is a {model.config.architecture}; "
            f"choose a {title} checkpoint"
        )
