"""Orders to a zygote and its replies; a zygote that does not answer is lost, and says so."""

import errno
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tykpy.ipc import orders
from tykpy.ipc.errors import ZygoteLostError
from tykpy.ipc.orders import Fork, OrderReceiver, OrderSender, Reap, close_all

Ends = tuple[OrderSender, OrderReceiver]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The broker's end and the zygote's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender, receiver = OrderSender(ours), OrderReceiver(theirs.detach())
    yield sender, receiver
    sender.close()
    receiver.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Two descriptors, and nothing in them."""
    descriptors = os.pipe()
    yield descriptors
    close_all(descriptors)


def while_zygote(does: Callable[[], Any], order: Callable[[], int]) -> int:
    """Give an order while the zygote does something."""
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(does)
        try:
            return order()
        finally:
            doing.result()


def test_a_zygote_says_that_it_is_ready(ends: Ends) -> None:
    sender, receiver = ends
    assert sender.hear() is None
    receiver.say_ready()
    assert sender.hear() is True
    receiver.close()
    assert sender.hear() is False


def test_a_fork_passes_descriptors_under_new_numbers(ends: Ends, pipe: tuple[int, int]) -> None:
    sender, receiver = ends
    taken: list[Fork] = []

    def fork() -> None:
        order = receiver.next()
        assert isinstance(order, Fork)
        taken.append(order)
        receiver.reply(4711)

    assert while_zygote(fork, lambda: sender.fork(f"{pipe[0]},{pipe[1]}", pipe)) == 4711
    (order,) = taken
    assert order.channel == f"{order.descriptors[0]},{order.descriptors[1]}"
    os.write(order.descriptors[1], b"through")
    assert os.read(pipe[0], 100) == b"through"
    assert not any(os.get_inheritable(descriptor) for descriptor in order.descriptors)
    close_all(order.descriptors)


def test_the_exit_code_of_a_process_comes_back(ends: Ends) -> None:
    sender, receiver = ends

    def reap() -> None:
        assert receiver.next() == Reap(4711)
        receiver.reply(-9)

    assert while_zygote(reap, lambda: sender.reap(4711)) == -9


def test_why_an_order_cannot_be_done_comes_back(ends: Ends) -> None:
    sender, receiver = ends

    def refuse() -> None:
        receiver.next()
        receiver.refuse(errno.EAGAIN)

    with pytest.raises(BlockingIOError, match="Resource temporarily unavailable"):
        while_zygote(refuse, lambda: sender.reap(1))


def test_a_zygote_without_descriptors_refuses_and_goes_on(ends: Ends, pipe: tuple[int, int]) -> None:
    sender, receiver = ends
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    served = threading.Thread(target=lambda: receiver.next())
    served.start()
    lowest_free = os.dup(pipe[0])
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            sender.fork(f"{pipe[0]},{pipe[1]}", pipe)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    sender.close()  # nothing more will come
    served.join()


def test_a_zygote_that_has_ended_is_lost(ends: Ends) -> None:
    sender, receiver = ends
    receiver.close()
    with pytest.raises(ZygoteLostError, match=r"does not answer: .*Broken pipe"):
        sender.reap(1)


def test_a_zygote_that_ends_during_an_order_is_lost(ends: Ends) -> None:
    sender, receiver = ends

    def end() -> None:
        receiver.next()
        receiver.close()

    with pytest.raises(ZygoteLostError, match="has ended"):
        while_zygote(end, lambda: sender.reap(1))


def test_a_zygote_that_does_not_answer_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "PATIENCE", 0.01)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        sender = OrderSender(ours)
        with pytest.raises(ZygoteLostError, match="timed out"):
            sender.reap(1)
        sender.close()


def test_orders_need_no_descriptor_to_be_available(ends: Ends) -> None:
    """poll(2) fails with EINVAL when RLIMIT_NOFILE is below the number of descriptors polled."""
    sender, receiver = ends
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_waiting = threading.Event()

    def reap() -> None:
        receiver.next()
        is_waiting.wait()
        receiver.reply(-9)

    with ThreadPoolExecutor(2) as pool:
        pool.submit(reap)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            order = pool.submit(sender.reap, 4711)
            is_waiting.set()
            assert order.result() == -9
        finally:
            is_waiting.set()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_no_order_comes_after_the_broker_is_gone(ends: Ends) -> None:
    sender, receiver = ends
    sender.close()
    assert receiver.next() is None
