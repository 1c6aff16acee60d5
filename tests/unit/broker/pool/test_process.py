"""How a process ended, in words, and how much memory one has."""

import mmap
import os
import signal

import pytest

from broker.pool.memory import memory_of
from broker.pool.process import describe_end, oom_kills

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("code", "words", "by_itself"),
    [
        (0, "exited with code 0 (done)", True),
        (1, "exited with code 1 (an exception that nobody caught; its traceback is above)", True),
        (3, "exited with code 3 (cannot start)", True),
        (4, "exited with code 4 (its ring is damaged)", True),
        (9, "exited with code 9", True),
        (-signal.SIGSEGV, "was ended by SIGSEGV", True),
        (-signal.SIGABRT, "was ended by SIGABRT", True),
        (-signal.SIGKILL, "was ended by SIGKILL", False),
        (-signal.SIGTERM, "was ended by SIGTERM", False),
        (-63, "was ended by signal 63", False),
    ],
)
def test_an_end_in_words(code: int, words: str, by_itself: bool) -> None:
    assert describe_end(code) == (words, by_itself)


def test_want_of_memory_is_the_hooks_doing() -> None:
    ending = describe_end(-signal.SIGKILL, out_of_memory=True)
    assert ending == ("was ended by SIGKILL (the machine was out of memory)", True)


def test_the_kernel_counts_whom_it_ended_for_want_of_memory() -> None:
    assert oom_kills() >= 0


def test_memory_is_the_cheap_bound_below_the_limit_and_the_own_share_above() -> None:
    with mmap.mmap(-1, 64 * MIB) as pages:
        for offset in range(0, len(pages), 4096):
            pages[offset] = 1
        bound = memory_of(os.getpid(), 1 << 60)
        share = memory_of(os.getpid(), 0)
    assert 64 * MIB < share <= bound + MIB


def test_a_process_that_is_gone_has_none() -> None:
    assert memory_of(2**22 + 1, 0) == 0
