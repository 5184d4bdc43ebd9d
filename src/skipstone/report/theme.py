"""How the page and its charts look on light and on dark ground.

A chart names *roles* such as ``@a``, and the theme gives each of them a colour: charts are made
once and drawn on either ground. Text has a contrast of at least 4.5 to 1 with its ground, and a
mark that carries meaning one of 3 to 1; ``tests/report/test_reading.py`` measures both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Ground = Literal["light", "dark"]

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Noto Sans CJK SC', sans-serif"

# A ramp goes from nearly the background colour to the strongest contrast.
COLOURS: Mapping[Ground, Mapping[str, str]] = {
    "light": {
        "ground": "#fbfaf8", "raised": "#ffffff", "ink": "#22252a", "faint": "#5a5e65",
        "line": "#e2e0da", "link": "#00598a", "mark": "#fbe7d3", "good": "#00694c",
        "a": "#0072b2", "b": "#b34700", "grey": "#74797f", "other": "#a8497f", "late": "#00795c",
        "skipped": "#b87300", "trail": "#e9e8e5", "band": "#f7e3bd",
        "ramp1": "#188a78", "ramp2": "#267c8e", "ramp3": "#31688e", "ramp4": "#3e4a89",
        "ramp5": "#440154",
        "heat1": "#c67414", "heat2": "#b34700", "heat3": "#8f2a0f", "heat4": "#5a0f14",
    },
    "dark": {
        "ground": "#17191c", "raised": "#1e2125", "ink": "#e6e4df", "faint": "#a8a69f",
        "line": "#34373c", "link": "#7cc0ee", "mark": "#4a3320", "good": "#45c39a",
        "a": "#56b4e9", "b": "#f28a3c", "grey": "#8d9299", "other": "#e08fc0", "late": "#45c39a",
        "skipped": "#e6b045", "trail": "#26292d", "band": "#45391f",
        "ramp1": "#2f7f95", "ramp2": "#21918c", "ramp3": "#3fbc73", "ramp4": "#a0da39",
        "ramp5": "#fde725",
        "heat1": "#b5651d", "heat2": "#e0782f", "heat3": "#f7a65c", "heat4": "#ffe6bd",
    },
}  # fmt: skip
RAMP = [f"@ramp{i}" for i in range(1, 6)]
HEAT = [f"@heat{i}" for i in range(1, 5)]


def painted(spec: Any, ground: Ground) -> Any:
    """A chart with the colours of a theme in place of its roles; its rows are left as they are."""
    match spec:
        case dict():
            return {k: v if k == "datasets" else painted(v, ground) for k, v in spec.items()}
        case list():
            return [painted(part, ground) for part in spec]
        case str() if spec.startswith("@"):
            return COLOURS[ground].get(spec[1:], spec)
        case _:
            return spec


def style_sheet() -> str:
    """The colours as custom properties: of the system's theme, or of the one that was chosen."""
    light, dark = (_properties(ground) for ground in COLOURS)
    return (
        f":root {{ {light} }}\n"
        f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {dark} }} }}\n'
        f':root[data-theme="dark"] {{ {dark} }}\n'
    )


def _properties(ground: Ground) -> str:
    colours = " ".join(f"--{name}: {colour};" for name, colour in COLOURS[ground].items())
    return f"{colours} color-scheme: {ground};"


def config() -> dict[str, object]:
    """The configuration of Vega-Lite for all charts of a report, in roles."""
    return {
        "background": "transparent",
        "font": _FONT,
        "view": {"stroke": "@line"},
        "axis": {
            "labelColor": "@faint",
            "titleColor": "@faint",
            "titleFontWeight": "normal",
            "titleFontSize": 12,
            "labelFontSize": 11,
            "gridColor": "@line",
            "gridOpacity": 0.6,
            "domainColor": "@line",
            "tickColor": "@line",
            "tickSize": 4,
        },
        "legend": {
            "labelColor": "@faint",
            "titleColor": "@faint",
            "titleFontWeight": "normal",
            "labelFontSize": 12,
            "titleFontSize": 12,
            "orient": "bottom",
            "direction": "horizontal",
            "gradientLength": 160,
            "gradientThickness": 8,
            "symbolFillColor": "@faint",
            "symbolStrokeColor": "@faint",
            "columnPadding": 14,
        },
        "rule": {"color": "@ink"},
        "text": {"color": "@ink"},
        "title": {"color": "@ink"},
    }
