"""How charts look on light and on dark ground."""

from __future__ import annotations

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Noto Sans CJK SC', sans-serif"


def theme(*, dark: bool) -> dict[str, object]:
    """The configuration of Vega-Lite for all charts of a report."""
    ink, faint, line = (
        ("#e6e4df", "#a9a69f", "#45484d") if dark else ("#22252a", "#666a70", "#d5d3cd")
    )
    return {
        "background": "transparent",
        "font": _FONT,
        "view": {"stroke": line},
        "axis": {
            "labelColor": faint,
            "titleColor": faint,
            "titleFontWeight": "normal",
            "titleFontSize": 12,
            "labelFontSize": 11,
            "gridColor": line,
            "gridOpacity": 0.5,
            "domainColor": line,
            "tickColor": line,
            "tickSize": 4,
        },
        "legend": {
            "labelColor": faint,
            "titleColor": faint,
            "titleFontWeight": "normal",
            "labelFontSize": 11,
            "titleFontSize": 11,
            "orient": "bottom",
            "direction": "horizontal",
            "gradientLength": 160,
            "gradientThickness": 8,
            "symbolFillColor": faint,
            "symbolStrokeColor": faint,
        },
        "rule": {"color": ink},
        "text": {"color": ink},
    }


THEMES = {"light": theme(dark=False), "dark": theme(dark=True)}
