"""A sink's queue and thread: order, retries, giving up, dropping, and closing."""

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Sequence

from tests.support.broker import wait_until
from tykpy.broker.events.delivery import (
    MAX_WAITING_BYTES,
    Delivery,
    DeliveryError,
    DeliveryOptions,
    DeliveryVerdict,
    backoff,
)
from tykpy.broker.events.event import ReceivedEvent

QUICK = DeliveryOptions(queue_size=100, first_delay=0.001, longest_delay=0.002, max_attempts=3)
NO_GRACE, GRACE = 0.01, 30.0


class Scripted:
    """A target that fails with one scripted verdict per attempt, then succeeds."""

    name = "target"
    display = "the target"

    def __init__(self, *verdicts: DeliveryVerdict | Exception, batch: int = 1) -> None:
        self.batch = batch
        self.tries: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.closed = 0
        self.script(*verdicts)

    def script(self, *verdicts: DeliveryVerdict | Exception | None) -> None:
        """Script the next attempts; None means success."""
        self._verdicts = deque(verdicts)

    def deliver(self, events: Sequence[ReceivedEvent]) -> None:
        """Record the attempt."""
        self.tries.append([event.name for event in events])
        assert self.gate.wait(30)
        verdict = self._verdicts.popleft() if self._verdicts else None
        if isinstance(verdict, Exception):
            raise verdict
        if verdict is not None:
            raise DeliveryError(verdict, "of no use")

    def close(self) -> None:
        """Count."""
        self.closed += 1


def event(name: str, size: int = 2) -> ReceivedEvent:
    return ReceivedEvent(name, f"id-{name}", 0, "x" * size)


def end(delivery: Delivery, grace: float = GRACE) -> None:
    """Close the delivery as the broker does."""
    asyncio.run(delivery.close(grace))


def counts(delivery: Delivery) -> dict[str, int]:
    """Return the counters that are not 0."""
    return {name: count for name, count in delivery.describe().items() if count}


def test_events_arrive_in_order_and_in_batches() -> None:
    target = Scripted(batch=2)
    target.gate.clear()
    delivery = Delivery(target, QUICK)
    for name in "abcd":
        delivery.offer(event(name))
    target.gate.set()
    end(delivery)
    assert [name for batch in target.tries for name in batch] == list("abcd")
    assert max(map(len, target.tries)) <= 2
    assert counts(delivery) == {"delivered": 4}
    assert target.closed == 1


def test_a_failure_is_tried_again_before_anything_else() -> None:
    target = Scripted(DeliveryVerdict.FAILED, DeliveryVerdict.FAILED)
    delivery = Delivery(target, QUICK)
    delivery.offer(event("a"))
    delivery.offer(event("b"))
    end(delivery)
    assert target.tries == [["a"], ["a"], ["a"], ["b"]]
    assert counts(delivery) == {"delivered": 2, "retries": 2}


def test_an_event_that_fails_too_often_is_given_up() -> None:
    target = Scripted(*[DeliveryVerdict.FAILED] * QUICK.max_attempts)
    delivery = Delivery(target, QUICK)
    delivery.offer(event("a"))
    delivery.offer(event("b"))
    end(delivery)
    assert target.tries == [["a"]] * QUICK.max_attempts + [["b"]]
    assert counts(delivery) == {"delivered": 1, "given_up": 1, "retries": QUICK.max_attempts - 1}


def test_tries_are_further_and_further_apart_up_to_a_limit() -> None:
    options = DeliveryOptions(queue_size=1, first_delay=0.25, longest_delay=3.0)
    assert list(itertools.islice(backoff(options), 6)) == [0.25, 0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_refused_event_is_not_tried_again() -> None:
    target = Scripted(DeliveryVerdict.REFUSED)
    delivery = Delivery(target, QUICK)
    delivery.offer(event("a"))
    end(delivery)
    assert (target.tries, counts(delivery)) == ([["a"]], {"given_up": 1})


def delivery_of_pairs(*verdicts: DeliveryVerdict) -> tuple[Scripted, Delivery]:
    """Deliver one event, then apply the verdicts to the two after it, which form one batch."""
    target = Scripted(batch=2)
    target.gate.clear()
    delivery = Delivery(target, QUICK)
    delivery.offer(event("a"))
    wait_until(lambda: target.tries == [["a"]], lambda: "the first try")
    delivery.offer(event("b"))
    delivery.offer(event("c"))
    target.script(None, *verdicts)
    target.gate.set()
    return target, delivery


def test_every_event_of_a_batch_that_is_refused_is_counted() -> None:
    target, delivery = delivery_of_pairs(DeliveryVerdict.REFUSED)
    end(delivery)
    assert (target.tries[1:], counts(delivery)) == ([["b", "c"]], {"delivered": 1, "given_up": 2})


def test_an_interrupted_batch_is_counted_as_dropped() -> None:
    target, delivery = delivery_of_pairs(*[DeliveryVerdict.AWAY] * 100_000)
    wait_until(lambda: len(target.tries) > 1, lambda: "a try of the second batch")
    end(delivery, NO_GRACE)
    wait_until(lambda: target.closed == 1, lambda: "the end of the thread")
    outcome = counts(delivery)
    assert outcome.pop("retries") > 0
    assert outcome == {"delivered": 1, "dropped": 2}


def test_no_event_is_given_up_while_the_target_is_away() -> None:
    target = Scripted(*[DeliveryVerdict.AWAY] * 10)
    delivery = Delivery(target, QUICK)
    delivery.offer(event("a"))
    end(delivery)
    assert counts(delivery) == {"delivered": 1, "retries": 10}


def test_a_bug_costs_one_event_but_not_the_thread() -> None:
    target = Scripted(ZeroDivisionError())
    delivery = Delivery(target, QUICK)
    delivery.offer(event("a"))
    delivery.offer(event("b"))
    end(delivery)
    assert counts(delivery) == {"delivered": 1, "given_up": 1}


def test_a_full_queue_drops_new_events() -> None:
    target = Scripted()
    target.gate.clear()
    delivery = Delivery(target, DeliveryOptions(queue_size=2))
    for name in "abcde":
        delivery.offer(event(name))
    assert counts(delivery) == {"dropped": 3, "waiting": 2}
    target.gate.set()
    end(delivery)
    assert target.tries == [["a"], ["b"]]


def test_few_but_large_events_fill_the_queue_too() -> None:
    target = Scripted()
    target.gate.clear()
    delivery = Delivery(target, QUICK)
    delivery.offer(event("tried"))
    wait_until(lambda: target.tries == [["tried"]], lambda: str(target.tries))
    for _ in range(3):
        delivery.offer(event("large", MAX_WAITING_BYTES // 2))
    assert counts(delivery) == {"dropped": 1, "waiting": 3}
    target.gate.set()
    end(delivery)


def test_closing_waits_no_longer_than_its_grace() -> None:
    target = Scripted(*[DeliveryVerdict.AWAY] * 1_000)
    delivery = Delivery(target, DeliveryOptions(queue_size=10, first_delay=0.05))
    delivery.offer(event("a"))
    delivery.offer(event("b"))
    wait_until(lambda: bool(target.tries), lambda: "a try")
    end(delivery, NO_GRACE)
    wait_until(lambda: target.closed == 1, lambda: "the thread has ended")
    assert "delivered" not in counts(delivery)


def test_closing_does_not_wait_for_a_long_back_off() -> None:
    target = Scripted(DeliveryVerdict.FAILED)
    delivery = Delivery(target, DeliveryOptions(queue_size=10, first_delay=0.01, longest_delay=10_000.0))
    slow = Delivery(target, DeliveryOptions(queue_size=10, first_delay=0.01))
    delivery.offer(event("a"))
    end(delivery)
    assert counts(delivery) == {"delivered": 1, "retries": 1}
    end(slow)


def test_no_event_is_taken_after_closing() -> None:
    delivery = Delivery(Scripted(), QUICK)
    end(delivery)
    delivery.offer(event("late"))
    assert counts(delivery) == {"dropped": 1}
