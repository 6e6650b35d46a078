"""Results and events to an MQTT broker.

    mqtt://user:password@broker:1883/plant/cam1#qos=1&every_s=1      mqtts:// for TLS

Publishes the record of each frame at TOPIC/result, each event at TOPIC/event, as JSON, and "online",
retained, at TOPIC/status. "offline" is said there when the run ends, by the broker itself when it dies.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any
from urllib.parse import unquote, urlsplit

from edgeseg.contracts import FrameSink
from edgeseg.errors import StreamError, require
from edgeseg.results import Result
from edgeseg.specs import LabelSpace
from edgeseg.stream.sinks.options import flag, number, read_options, whole
from edgeseg.stream.uris import redact
from edgeseg.stream.watch.events import Event
from edgeseg.text import json_text

_CONNECT_S = 5.0
_RECONNECT_S = 2.0
_IN_FLIGHT = 200
_SILENT_S = 10.0
_FLUSH_S = 1.0
_KEEPALIVE_S = 10
_PORTS = {"mqtt": 1883, "mqtts": 8883}


class MqttOut(FrameSink):
    """An MQTT publisher. A broker that is slow misses results, which are counted in `skipped`; one that is
    gone is a StreamError.

    Args:
        address: URI without options.
        qos: of results; events have at least 1.
        retain: whether the broker keeps the last result for those who come later.
        every_s: least time between two results; 0 for every frame.
    """

    takes_all_sources = True

    def __init__(self, address: str, *, qos: int = 0, retain: bool = False, every_s: float = 0.0) -> None:
        self.name = redact(address)
        self.skipped = 0
        parts = urlsplit(address)
        topic = unquote(parts.path).strip("/")
        try:
            port = parts.port or _PORTS[parts.scheme.lower()]
        except ValueError:
            port = 0
        if (
            not parts.hostname
            or not port
            or not topic
            or any(letter in topic for letter in "+#\0")
            or parts.query
        ):
            raise StreamError(
                f"{self.name}: not a broker and a topic", hint="write it as mqtt://broker:1883/plant/cam1"
            )
        self._host, self._port, self._topic, self._tls = (
            parts.hostname,
            port,
            topic,
            parts.scheme.lower() == "mqtts",
        )
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._qos, self._retain, self._every_s = qos, retain, every_s
        self._client: Any = None
        self._opened = False
        self._last_s: dict[str, float] = {}
        self._sent: deque[tuple[float, Any]] = deque()

    def open(self, size_hw: tuple[int, int], fps: float, labels: LabelSpace) -> None:
        client = self._make_client()
        answered = threading.Event()
        refusals = ["no answer"]
        self._lost: str | None = None

        def connected(client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
            refusals[:] = [str(reason)] if reason.is_failure else []
            answered.set()

        def disconnected(client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
            self._lost = str(reason)

        client.on_connect, client.on_disconnect = connected, disconnected
        client.connect_timeout = wait_s = _RECONNECT_S if self._opened else _CONNECT_S
        try:
            client.connect(self._host, self._port, _KEEPALIVE_S)
        except (OSError, ValueError) as error:
            raise self._failed(f"cannot be reached: {error}") from error
        client.loop_start()
        self._client = client
        answered.wait(wait_s)
        if refusals:
            self._stop()
            raise self._failed(f"refused: {refusals[0]}")
        self._opened = True
        self._publish("status", "online", 1, True)

    def write(self, result: Result) -> None:
        self._check()
        frame = result.frame
        if self._every_s:
            due_s = self._last_s.get(frame.source_id, float("-inf")) + self._every_s
            if frame.arrival_s < due_s:
                return
            self._last_s[frame.source_id] = frame.arrival_s
        if len(self._sent) >= _IN_FLIGHT:
            self.skipped += 1
            return
        self._publish("result", json_text(result.to_json()), self._qos, self._retain)

    def event(self, event: Event) -> None:
        """Publish an event; it is lost where the broker is gone."""
        if self._client is not None and self._lost is None:
            self._publish("event", json_text(event.to_json()), max(1, self._qos), False)

    def close(self) -> None:
        client = self._client
        if client is None:
            return
        if self._lost is None:
            self._publish("status", "offline", 1, True)
            until_s = time.monotonic() + _FLUSH_S
            while self._sent and time.monotonic() < until_s:
                if self._sent[0][1].is_published():
                    self._sent.popleft()
                else:
                    time.sleep(0.005)
        self._stop()

    def _make_client(self) -> Any:
        mqtt = require("paho.mqtt.client", extra="mqtt", purpose="publish to an MQTT broker")
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        client.max_queued_messages_set(2 * _IN_FLIGHT)
        client.will_set(f"{self._topic}/status", "offline", qos=1, retain=True)
        if self._user is not None:
            client.username_pw_set(self._user, self._password)
        if self._tls:
            client.tls_set()
        return client

    def _check(self) -> None:
        if self._client is None:
            raise RuntimeError("the sink is not open")
        if self._lost is not None:
            raise self._failed(f"the broker is gone: {self._lost}")
        now_s = time.monotonic()
        while self._sent and self._sent[0][1].is_published():
            self._sent.popleft()
        if self._sent and now_s - self._sent[0][0] > _SILENT_S:
            raise self._failed(f"the broker took nothing for {_SILENT_S:g} s")

    def _publish(self, kind: str, payload: str, qos: int, retain: bool) -> None:
        sent = self._client.publish(f"{self._topic}/{kind}", payload, qos=qos, retain=retain)
        if sent.rc == 0:
            self._sent.append((time.monotonic(), sent))

    def _stop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()
        self._sent.clear()

    def _failed(self, what: str) -> StreamError:
        return StreamError(f"{self.name}: {what}", hint="check the broker's address, user and password")


def from_uri(uri: str, opacity: float) -> MqttOut:
    """Return the publisher of `mqtt://BROKER/TOPIC#qos=1`. Raises StreamError for a malformed option."""
    address, options = read_options(uri, {"qos": whole(0, 2), "retain": flag, "every_s": number(0, 86_400)})
    return MqttOut(address, **options)
