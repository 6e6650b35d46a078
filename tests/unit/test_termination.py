"""SIGTERM is Ctrl-C to a command."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from edgeseg.cli.termination import Termination


def test_sigterm_is_ctrl_c_that_is_remembered() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Termination() as termination:
        assert not termination.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert termination.asked
        signal.raise_signal(signal.SIGTERM)  # whoever asks twice gets what he asked for once
    assert signal.getsignal(signal.SIGTERM) is before


def test_off_the_main_thread_signals_are_left_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with Termination():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_forked_child_ends_at_once() -> None:
    with Termination() as termination:
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    assert not termination.asked
