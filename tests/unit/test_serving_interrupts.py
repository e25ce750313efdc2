"""A second Ctrl-C while servers are removed."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from igniter_prof.serving import uninterrupted


def test_an_interrupt_waits_until_all_is_removed_also_beside_other_threads() -> None:
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()  # the kernel may hand the signal to it
    removed = []

    def remove_slowly() -> None:
        with uninterrupted():
            for _ in range(5):
                os.kill(os.getpid(), signal.SIGINT)
                threading.Event().wait(0.001)
            removed.append(True)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(KeyboardInterrupt):
            remove_slowly()
    finally:
        done.set()
        other.join()
    assert removed == [True]
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_without_an_interrupt_nothing_is_raised_and_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_has_no_signals_to_put_off() -> None:
    seen = []

    def run() -> None:
        with uninterrupted():
            seen.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [True]
