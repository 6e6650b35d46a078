"""SIGTERM and SIGHUP are Ctrl-C to a command, once a second at most; children do not hear them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from edgeseg.cli import termination as module
from edgeseg.cli.termination import Termination, interrupted
from edgeseg.signals import children_spared, is_heard, start_spared
from edgeseg.training import interrupt
from edgeseg.training.interrupt import Stopped, stop_requests

BOTH = pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])


@pytest.fixture
def nohup() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


@BOTH
def test_a_request_to_end_is_ctrl_c_that_is_remembered(number: int, code: int) -> None:
    before = signal.getsignal(number)
    with Termination() as termination:
        assert not termination.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert termination.asked and interrupted(termination) == code
        signal.raise_signal(number)  # `timeout` sends it to the process and to its group
        signal.raise_signal(signal.SIGTERM)
        assert interrupted(termination) == code
    assert signal.getsignal(number) is before


def test_whoever_asks_again_later_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ONE_REQUEST_S", 0.01)
    with Termination():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
            time.sleep(0.02)


@pytest.mark.usefixtures("nohup")
def test_under_nohup_a_closing_terminal_ends_nothing() -> None:
    assert not is_heard(signal.SIGHUP)
    with Termination() as termination, stop_requests() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert not termination.asked and not stop.requested


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_is_asked_for_once_and_says_by_what(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with Termination() as termination:
        with stop_requests() as stop:
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert stop.requested
            assert interrupted(termination, Stopped(stop.signal)) == 128 + number
            monkeypatch.setattr(interrupt, "ONE_REQUEST_S", 0.0)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert signal.getsignal(signal.SIGTERM) == termination._raise


def _sleep() -> None:
    time.sleep(60)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_are_spared_until_whoever_started_them_ends_them(method: str) -> None:
    context = multiprocessing.get_context(method)
    child = context.Process(target=_sleep, daemon=True)
    start_spared(child)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(child.pid or 0, number)
    child.join(0.3)
    assert child.is_alive()
    child.kill()
    child.join()


def test_a_program_that_was_started_so_is_spared_too() -> None:
    with children_spared():
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        child.send_signal(number)
    time.sleep(0.2)
    assert child.poll() is None
    child.communicate(b"\n", timeout=20)
    assert child.returncode == 0
