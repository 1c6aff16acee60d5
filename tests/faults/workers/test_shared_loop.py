"""What a bundle sets on the event loop of async hooks is its own, and the hooks of another bundle do not notice."""

from collections.abc import Iterator

import pytest

from tests.support.broker import RunningBroker, running_broker
from tykpy.client.grpc import GrpcCallError

SETS = """
import asyncio, concurrent.futures
from tyk.decorators import Pre, on_start

def factory(loop, coroutine, **options):
    task = asyncio.Task(coroutine, loop=loop, **options)
    task.made_here = True
    return task

errors = []

def set_all():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1, "own"))
    loop.set_exception_handler(lambda loop, error: errors.append(error["message"]))
    loop.set_debug(True)
"""
USES = """
import asyncio, threading
from tyk.decorators import Pre

def fail():
    raise ValueError("from a callback")

@Pre
async def uses(request, session, spec):
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    request.add_header("X-Task", str(getattr(task, "made_here", False)))
    request.add_header("X-Thread", (await asyncio.to_thread(threading.current_thread)).name)
    request.add_header("X-Factory", str(loop.get_task_factory() is not None))
    request.add_header("X-Handler", str(loop.get_exception_handler() is not None))
    request.add_header("X-Debug", str(loop.get_debug()))
    loop.call_soon(fail)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    request.add_header("X-Errors", str(len(globals().get("errors", ()))))
    return request, session

@Pre
async def sets_nonsense(request, session, spec):
    loop, error = asyncio.get_running_loop(), None
    for set_it in (loop.set_task_factory, loop.set_default_executor, loop.set_exception_handler):
        try:
            set_it(1)
        except TypeError as raised:
            error = raised
        else:
            return request, session
    raise error
"""
IN_START = "\n@on_start\nasync def begin():\n    set_all()\n"
IN_HOOK = "\n@Pre\nasync def begin(request, session, spec):\n    set_all()\n    return request, session\n"
OWN = {"X-Task": "True", "X-Factory": "True", "X-Handler": "True", "X-Debug": "False"}
USUAL = {"X-Task": "False", "X-Factory": "False", "X-Handler": "False", "X-Debug": "False", "X-Errors": "0"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    files = {"starts.py": SETS + IN_START + USES, "hooks.py": SETS + IN_HOOK + USES, "other.py": USES}
    with running_broker(tmp_path_factory.mktemp("loop"), files=files) as running:
        yield running


@pytest.mark.parametrize("bundle", ["starts", "hooks"])
def test_what_a_bundle_sets_on_the_loop_is_its_own(broker: RunningBroker, bundle: str) -> None:
    if bundle == "hooks":
        broker.call("begin", bundle=bundle)
    before = broker.log.count("from a callback")
    for count in (1, 2):
        found = dict(broker.call("uses", bundle=bundle).request.set_headers)
        assert {**OWN, "X-Errors": str(count)}.items() <= found.items()
        assert found["X-Thread"].startswith("own")
    assert broker.log.count("from a callback") == before
    assert f"bundle {bundle}.py: set_debug has no effect in a worker" in broker.log


def test_other_bundles_have_the_loop_as_usual(broker: RunningBroker) -> None:
    found = dict(broker.call("uses", bundle="other").request.set_headers)
    assert USUAL.items() <= found.items()
    assert found["X-Thread"].startswith("asyncio")
    broker.wait_for_log("ValueError: from a callback")


def test_nonsense_is_refused_and_changes_nothing(broker: RunningBroker) -> None:
    with pytest.raises(GrpcCallError, match="TypeError"):
        broker.call("sets_nonsense", bundle="other")
    assert broker.call("uses", bundle="other").request.set_headers["X-Task"] == "False"
