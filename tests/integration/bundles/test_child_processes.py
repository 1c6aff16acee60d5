"""Processes that multiprocessing starts afresh run functions of the bundle that started them."""

from collections.abc import Iterator

import pytest

from tests.support.broker import RunningBroker
from tests.support.bundles import write_bundle

MIDDLEWARE = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
from tyk.decorators import Pre

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "vendor"))
import carried, work

def square(number):
    from work import OWNER  # not loaded in the child before
    return f"{OWNER} {number * number}"

@Pre
def asks_executor(request, session, spec):
    context = multiprocessing.get_context(request.get_header("Method"))
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        results = [pool.submit(function, 3).result() for function in (square, work.cube, carried.half)]
    request.add_header("X-Found", " ".join(results))
    return request, session

@Pre
def asks_pool(request, session, spec):
    context = multiprocessing.get_context(request.get_header("Method"))
    with context.Pool(1, maxtasksperchild=1) as pool:  # a thread of the pool starts the second child
        results = [pool.apply(function, (3,)) for function in (square, work.cube, carried.half)]
    request.add_header("X-Found", " ".join(results))
    return request, session
"""
WORK = """
OWNER = "{name}"
def cube(number):
    return f"{{OWNER}} {{number ** 3}}"
"""
CARRIED = """
def half(number):
    return f"{name} {{number / 2}}"
"""
SINGLE = """
import multiprocessing
from tyk.decorators import Pre

class Answer:
    def __init__(self, value):
        self.value = value

def answer(queue):
    queue.put(Answer("single"))

@Pre
def single(request, session, spec):
    context = multiprocessing.get_context(request.get_header("Method"))
    queue = context.SimpleQueue()
    child = context.Process(target=answer, args=(queue,))
    child.start()
    request.add_header("X-Found", queue.get().value)
    child.join()
    return request, session
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    broker = RunningBroker(tmp_path_factory.mktemp("children"))
    broker.add_file("single.py", SINGLE)
    for name in ("one", "two"):
        files = {"middleware.py": MIDDLEWARE, "work.py": WORK.format(name=name)}
        write_bundle(broker.bundles / name, {**files, "vendor/carried.py": CARRIED.format(name=name)}, driver="python")
    with broker:
        yield broker


def found(broker: RunningBroker, hook: str, bundle: str, method: str) -> str:
    return broker.call(hook, bundle=bundle, headers=[("Method", method)]).request.set_headers["X-Found"]


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("hook", ["asks_executor", "asks_pool"])
def test_children_import_the_modules_of_their_bundle(broker: RunningBroker, hook: str, method: str) -> None:
    answers = [found(broker, hook, bundle, method) for bundle in ("one", "two")]
    assert answers == [f"{name} 9 {name} 27 {name} 1.5" for name in ("one", "two")]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_children_import_a_single_file(broker: RunningBroker, method: str) -> None:
    assert found(broker, "single", "single", method) == "single"
