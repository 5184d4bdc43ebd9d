"""What a notebook shows of a study: a chart as vector graphics, answers and verdict as a table.

Vector graphics need no extension and no network: Jupyter, VS Code and exported pages show them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from skipstone.errors import ConfigError, nearest
from skipstone.quoting import shown
from skipstone.report.facts import verdict
from skipstone.report.runs import Study
from skipstone.report.theme import config, painted
from skipstone.report.words import Phrase, in_language, words


@dataclass(frozen=True)
class Figure:
    """One view of a study."""

    title: str
    svg: str
    """The chart."""

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """For Jupyter and other notebooks."""
        return {"text/plain": f"<{self.title}>", "image/svg+xml": self.svg}

    def _repr_html_(self) -> str:
        """For those that know HTML alone; an SVG stands in HTML as it is."""
        return self.svg


def view(
    study: Study, name: str, *, step: int | None = None, position: int | None = None
) -> Figure:
    """Draw one chart of the report, for a notebook.

    Args:
        study: what it is about, from ``skipstone.study``.
        name: of ``skipstone.report.views.VIEWS``, such as ``commits_difference``, ``errors``,
            ``candidates`` or ``histogram``.
        step: index among ``study.steps``; the first decision that differs if None.
        position: absolute; the one of that decision if None.

    Raises:
        ConfigError: no such view or step, or a package for drawing is missing.

    Example:
        ``skipstone.view(skipstone.study([a.trace, b.trace]), "errors")``
    """
    import vl_convert

    from skipstone.report.views import VIEWS

    if name not in VIEWS:
        raise ConfigError(f"view {shown(name)} is unknown; {nearest(name, VIEWS)}")
    at = study.first or 0 if step is None else step
    if not 0 <= at < len(study.steps):
        raise ConfigError(f"step is {at}, must be between 0 and {len(study.steps) - 1}")
    decision = study.difference.decision
    where = decision.position if position is None and decision is not None else position
    word = words("en").__getitem__
    spec = VIEWS[name].draw(study, word, step=at, position=-1 if where is None else where)
    title = word(f"title.{name}").format(b=study.b.letter)
    drawn = painted({**spec, "title": title}, "light")
    white = {**painted(config(), "light"), "background": "white"}
    return Figure(title, vl_convert.vegalite_to_svg(drawn, config=white))


def summary(study: Study) -> str:
    """Verdict and answers as HTML; every text is escaped."""
    return _template().render(
        verdict=verdict.verdict(study),
        answers=[(run, verdict.answer(study, run)) for run in study.pair],
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("skipstone.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    environment.filters["english"] = _english
    return environment.get_template("notebook.html")


def _english(text: Phrase) -> str:
    return in_language(text, "en")
