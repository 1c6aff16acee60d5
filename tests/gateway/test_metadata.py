"""Section 7: hooks can read the trace context that the gateway sends with a call."""

import re

import pytest

from tests.support.gateway.table import Table
from tests.support.gateway.tyk import BINARY

PASSES_IT_ON = """
    from tyk import current
    from tyk.decorators import *

    @Hook
    def trace_on(request, session, spec):
        for name in ("traceparent", "tracestate"):
            request.add_header("X-" + name, current().metadata[name])
        return request, session
    """


@pytest.mark.skipif(bool(BINARY), reason="a Tyk Gateway sends a trace context only where its own tracing is set up")
def test_hooks_find_the_trace_context_of_their_call(table: Table) -> None:
    api = table.api({"middleware.py": PASSES_IT_ON}, pre=["trace_on"])
    headers = [api.send().upstream.headers for _ in range(6)]
    traces = [one["X-Traceparent"][0] for one in headers]
    assert len(set(traces)) == len(traces)
    assert all(re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", trace) for trace in traces)
    assert [one["X-Tracestate"][0] for one in headers] == [f"test={trace[3:11]}" for trace in traces]
