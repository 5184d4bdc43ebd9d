"""The charts of a report."""

from skipstone.report.views import commits, inspector, layers, similarity, work
from skipstone.report.views.view import View

VIEWS: dict[str, View] = {
    view.name: view
    for module in (commits, layers, inspector, similarity, work)
    for view in module.VIEWS
}

__all__ = ["VIEWS", "View"]
