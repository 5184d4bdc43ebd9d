"""Everything the page's script needs, as plain data: steps, packed tables, charts, words."""

from __future__ import annotations

from skipstone.report.runs import Study
from skipstone.report.theme import COLOURS, config
from skipstone.report.views import VIEWS, View
from skipstone.report.words import LANGUAGES, words

# Words that only the template needs.
_TEMPLATE_ONLY = (
    "page.",
    "lead.",
    "verdict.",
    "chain.",
    "effort.",
    "setting.",
    "trial.",
    "about.",
    "answer.",
)


def payload(study: Study) -> dict[str, object]:
    """What travels in the page; see ``page/page.js`` for how it is read."""
    return {
        "words": {
            language: {
                key: word
                for key, word in words(language).items()
                if not key.startswith(_TEMPLATE_ONLY)
            }
            for language in LANGUAGES
        },
        "colours": COLOURS,
        "config": config(),
        "letters": study.letters,
        "prompt": study.prompt_length,
        "length": study.length,
        "layers": study.a.record.header.num_layers,
        "steps": [
            {"block": pair.steps[0].block, "step": pair.steps[0].step, "how": pair.how}
            for pair in study.steps
        ],
        "start": _start(study),
        "views": {name: _view(view, study) for name, view in VIEWS.items()},
    }


def _start(study: Study) -> dict[str, int]:
    """Where the cursor is at first: at the first decision that differs, if there is one."""
    decision, state = study.difference.decision, study.difference.state
    return {
        "step": study.first or 0,
        "layer": 1 if state is None else state.layer,
        "position": study.prompt_length if decision is None else decision.position,
    }


def _view(view: View, study: Study) -> dict[str, object]:
    return {
        "keys": view.keys,
        "byStep": view.by_step,
        "blanks": [] if view.blanks is None else view.blanks(study),
        "table": view.rows(study).packed(),
        "specs": {
            language: view.spec(study, words(language).__getitem__) for language in LANGUAGES
        },
    }
