"""Results and events through a real broker: mosquitto, started by the tests."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cameras import free_port
from edgeseg.errors import MissingDependency, StreamError
from edgeseg.stream.sinks import mqtt
from edgeseg.stream.watch.events import Event
from outside import Broker
from sinking import frame, result, sink
from streams import LABELS, random_images, time_limit

pytestmark = pytest.mark.usefixtures(time_limit.__name__)

(IMAGE,) = random_images(1)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path, "allow_anonymous true")
    yield made
    made.kill()


class Listener:
    """A subscriber; `seen` holds (topic, payload) in order."""

    def __init__(self, port: int, user: str = "", password: str = "") -> None:
        from paho.mqtt import client as paho

        self.seen: list[tuple[str, str]] = []
        self._arrived = threading.Condition()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        if user:
            self._client.username_pw_set(user, password)
        ready = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert ready.wait(10)

    def wait_for(self, topic: str, count: int = 1) -> list[Any]:
        """The first `count` messages at a topic."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.at(topic)) >= count, 10), self.seen
            return self.at(topic)[:count]

    def at(self, topic: str) -> list[str]:
        return [payload for found, payload in self.seen if found == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _take(self, client: Any, userdata: Any, message: Any) -> None:
        with self._arrived:
            self.seen.append((message.topic, message.payload.decode()))
            self._arrived.notify_all()


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    made = Listener(broker.port)
    yield made
    made.close()


def write(target: Any, index: int) -> None:
    target.write(result(frame(IMAGE, index)))


def write_for(target: Any, most_s: float, times_s: list[float] | None = None) -> None:
    """Write without a pause; how long each write took goes into `times_s`."""
    until_s = time.monotonic() + most_s
    while time.monotonic() < until_s:
        start_s = time.perf_counter()
        write(target, 0)
        if times_s is not None:
            times_s.append(time.perf_counter() - start_s)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_results_events_and_status_arrive(broker: Broker, listener: Listener, qos: int) -> None:
    target: Any = sink(f"mqtt://127.0.0.1:{broker.port}/plant/cam 1#qos={qos}")
    target.open((48, 64), 25.0, LABELS)
    for index in range(20):
        write(target, index)
    target.event(Event(1.5, "cam", "region", "lane: road blocked 40 %", {"share": 0.4}))
    target.close()
    target.close()
    results = [json.loads(text) for text in listener.wait_for("plant/cam 1/result", 20)]
    sent = [result(frame(IMAGE, index)).to_json() for index in range(20)]
    assert results == sent
    (event,) = (json.loads(text) for text in listener.wait_for("plant/cam 1/event"))
    assert (event["kind"], event["reason"], event["details"]) == (
        "region",
        "lane: road blocked 40 %",
        {"share": 0.4},
    )
    assert listener.wait_for("plant/cam 1/status", 2) == ["online", "offline"]
    assert len(listener.at("plant/cam 1/result")) == 20


def test_the_broker_says_that_a_run_died(broker: Broker, listener: Listener) -> None:
    target: Any = sink(f"mqtt://127.0.0.1:{broker.port}/cam")
    target.open((48, 64), 25.0, LABELS)
    listener.wait_for("cam/status")
    target._client.socket().shutdown(socket.SHUT_RDWR)  # as the kernel does for a process that was killed
    assert listener.wait_for("cam/status", 2) == ["online", "offline"]
    target.close()


def test_a_broker_that_dies_is_told_at_once_and_found_again(broker: Broker) -> None:
    target: Any = sink(f"mqtt://127.0.0.1:{broker.port}/cam")
    target.open((48, 64), 25.0, LABELS)
    write(target, 0)
    broker.kill()
    with pytest.raises(StreamError, match="the broker is gone"):
        write_for(target, 5)
    target.event(Event(1.0, "cam", "state", "lost"))
    target.close()
    with pytest.raises(StreamError, match="cannot be reached"):
        target.open((48, 64), 25.0, LABELS)
    broker.start()
    listener = Listener(broker.port)
    target.open((48, 64), 25.0, LABELS)
    write(target, 2)
    assert json.loads(listener.wait_for("cam/result")[0])["index"] == 2
    target.close()
    listener.close()


@pytest.mark.slow
def test_a_broker_that_hangs_holds_nothing_up(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "_SILENT_S", 0.5)
    target: Any = sink(f"mqtt://127.0.0.1:{broker.port}/cam#qos=1")
    target.open((48, 64), 25.0, LABELS)
    broker.process.send_signal(signal.SIGSTOP)
    times_s: list[float] = []
    with pytest.raises(StreamError, match="took nothing"):
        write_for(target, 10, times_s)
    assert max(times_s) < 0.2
    assert len(target._sent) <= mqtt._IN_FLIGHT and target.skipped > 0
    start_s = time.perf_counter()
    target.close()
    assert time.perf_counter() - start_s < 2
    start_s = time.perf_counter()
    with pytest.raises(StreamError, match=r"no answer|cannot be reached"):
        target.open((48, 64), 25.0, LABELS)
    assert time.perf_counter() - start_s < 3


def test_wrong_password(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto_passwd is not installed")
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(passwords), "me", "right"], check=True, capture_output=True
    )
    passwords.chmod(0o644)
    tmp_path.chmod(0o755)
    broker = Broker(tmp_path, "allow_anonymous false", f"password_file {passwords}", "user root")
    with pytest.raises(StreamError, match="refused: Not authorized") as caught:
        sink(f"mqtt://me:wrong@127.0.0.1:{broker.port}/cam").open((48, 64), 25.0, LABELS)
    assert "wrong" not in str(caught.value) and "password" in caught.value.hint
    target: Any = sink(f"mqtt://me:right@127.0.0.1:{broker.port}/cam")
    target.open((48, 64), 25.0, LABELS)
    listener = Listener(broker.port, "me", "right")
    write(target, 3)
    assert json.loads(listener.wait_for("cam/result")[0])["index"] == 3
    target.close()
    listener.close()
    broker.kill()


def test_nobody_listens_there() -> None:
    with pytest.raises(StreamError, match="cannot be reached") as caught:
        sink(f"mqtt://127.0.0.1:{free_port()}/cam").open((48, 64), 25.0, LABELS)
    assert caught.value.hint


def test_results_every_second_and_kept_for_late_comers(broker: Broker) -> None:
    target: Any = sink(f"mqtt://127.0.0.1:{broker.port}/cam#every_s=0.2&retain=1&qos=1")
    target.open((48, 64), 25.0, LABELS)
    started_s, count = time.monotonic(), 0
    while time.monotonic() < started_s + 0.7:
        write(target, count)
        count += 1
        time.sleep(0.01)
    target.close()
    listener = Listener(broker.port)
    last = json.loads(listener.wait_for("cam/result")[0])["index"]
    assert 0 < last < count
    assert listener.wait_for("cam/status") == ["offline"]
    listener.close()


def test_without_paho(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    monkeypatch.setitem(sys.modules, "paho", None)
    with pytest.raises(MissingDependency) as caught:
        sink("mqtt://127.0.0.1/cam").open((48, 64), 25.0, LABELS)
    assert "edgeseg[mqtt]" in caught.value.hint
