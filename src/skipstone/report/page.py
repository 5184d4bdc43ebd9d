"""The report as one HTML file that needs nothing else: no network, no other file, no eval."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

import vl_convert
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from skipstone.report.facts import chain, effort, tables, verdict
from skipstone.report.payload import payload
from skipstone.report.runs import Study
from skipstone.report.theme import style_sheet
from skipstone.report.views import VIEWS
from skipstone.report.words import LANGUAGES, Phrase, Say, in_language, say, template, words
from skipstone.sentence import Code, Sentence
from skipstone.version import __version__


def render(study: Study, language: str = "en") -> str:
    """The whole page.

    Args:
        study: what it is about.
        language: ``en`` or ``zh``, at first; the page has a switch.

    Raises:
        ConfigError: the language is not known, or a package for drawing is missing.
    """
    words(language)
    scripts = [_vega(), _file("page.js")]
    seen = verdict.verdict(study)
    return (
        _environment()
        .get_template("page.html")
        .render(
            study=study,
            language=language,
            languages=LANGUAGES,
            version=__version__,
            style=Markup(style_sheet() + _file("page.css")),
            scripts=[Markup(script) for script in scripts],
            policy=_policy(scripts),
            data=payload(study),
            views=VIEWS,
            say=say,
            title=in_language(seen.headline, language),
            verdict=seen,
            **_facts(study),
        )
    )


def _facts(study: Study) -> dict[str, object]:
    return {
        "answers": [(run, verdict.answer(study, run)) for run in study.pair],
        "chain": chain.chain(study),
        "efforts": effort.efforts(study),
        "settings": study.difference.settings,
        "trials": tables.trials(study),
        "ruled_out": tables.ruled_out(study),
        "ladder": tables.ladder(study) if len(study.runs) > 2 else [],
    }


@cache
def _environment() -> Environment:
    """Templates that escape everything they are given."""
    environment = Environment(
        loader=FunctionLoader(_file),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["say"] = _spoken
    environment.filters["spec"] = _breakable
    # Columns of tables keep their order.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment


def _breakable(spec: str) -> Markup:
    """The text of a setting, which may go on in another line after each of its fields."""
    return Markup(",<wbr>").join(spec.split(","))


def _spoken(text: Phrase) -> Markup:
    """A text in every language, of which the page shows one; plain text as it is."""
    if not isinstance(text, (Say, Sentence)):
        return Markup("<bdi>{}</bdi>").format(text)
    spans = (
        Markup('<span lang="{}">{}</span>').format(code, _isolated(text, code))
        for code in LANGUAGES
    )
    return Markup("").join(spans)


def _isolated(text: Say | Sentence, language: str) -> Markup:
    """A sentence whose values cannot turn the direction of the words around them."""
    values = {name: _value(value, language) for name, value in text.values.items()}
    return Markup(template(text, language)).format(**values)


def _value(value: object, language: str) -> object:
    match value:
        case Say() | Sentence():
            return _isolated(value, language)
        case Code():
            return Markup("<code>{}</code>").format(value)
        case str():
            return Markup("<bdi>{}</bdi>").format(value)
        case _:
            return value


def _policy(scripts: list[str]) -> str:
    """What the page may do: run these scripts, and nothing from anywhere."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        f"base-uri 'none'; form-action 'none'"
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script, from the package that has them on board."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


@cache
def _file(name: str) -> str:
    return files("skipstone.report").joinpath("page", name).read_text("utf-8")
