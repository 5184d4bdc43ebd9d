"""A check of schemathesis: an answer has the form that ``/openapi.json`` describes.

Its own check of schemas reads what is said of the data of an event as if it were said of the whole
body of a stream; here streams are left to tests of their own. Loaded by ``SCHEMATHESIS_HOOKS``.
"""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.check
def form_conformance(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """The body of an answer that is no stream."""
    kinds = response.headers.get("content-type", [""])
    if not kinds[0].startswith("text/event-stream"):
        case.operation.validate_response(response, case=case)
