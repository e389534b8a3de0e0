"""What publishing costs the service, and what a broker carries: `--write` puts it into docs/delivery.md."""

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.cost import measure
from services.broker import Broker, find_broker, free_port
from services.contract import Contract, Stamp
from services.delivery import Delivery
from services.fleet import Report, allow_files, record_day, run_fleet
from services.messages import Episode
from services.mqtt import Link
from services.settings import MqttSettings
from services.store import Store, uuid7

_PAGE = Path(__file__).parents[1] / "docs" / "delivery.md"
_SECONDS = 20.0
_FLEETS = (100, 1000)
_TENSION_HZ = (1.0, 4.0, 100.0)
_ABOUT = (
    f"Measured for {_SECONDS:g} s each on one machine with two cores, which board, service, broker and consumer "
    "share (`make bench`). CPU is in % of one core, memory is resident."
)
_SERVICE = (
    "`unshrug run` on a simulated board of two channels at 1 kHz, with a subscriber that counts all its messages. "
    "There is one level for every hop, so the hop is 10 ms for 100 Hz, and 50 ms for the others."
)
_OUTAGE = (
    "Episodes told while there is no broker: the time until all are in the store, and from the attempt to connect "
    "until a subscriber has all of them."
)
_FLEET = (
    "Mosquitto with a fleet of simulated wearers (`unshrug simulate-fleet`), each a client of its own that publishes "
    "its tension once a second, states and episodes, and one consumer of everything. Delays are from the publish "
    "call to the consumer's callback. All connect at once; how long until the last is online is in the last column."
)
_COLUMNS = (
    "wearers",
    "deliveries/s",
    "QoS 0, p50 / p99 ms",
    "QoS 1, p50 / p99 ms",
    "lost QoS 0; QoS 1",
    "broker CPU, %",
    "broker memory, MB",
    "online, s",
)


class Subscriber:
    """Another client, which counts what it hears below a root."""

    def __init__(self, port: int, root: str) -> None:
        self.heard = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{root}/#", 1)
        self._client.on_message = self._hear
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _hear(self, *_: Any) -> None:
        self.heard += 1

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def own_broker() -> contextlib.closing[Broker]:
    """A Mosquitto on a free port."""
    return contextlib.closing(find_broker(MqttSettings(port=free_port())))


def service_row(tension_hz: float) -> str:
    """Run the service and count at a subscriber."""
    with own_broker() as broker, contextlib.closing(Subscriber(broker.port, "unshrug/bench")) as subscriber:
        mqtt = f"port = {broker.port}\ntension_hz = {tension_hz}\n[level]\nhop_s = {min(0.05, 1 / tension_hz)}"
        cost = measure(1000, 2, _SECONDS, mqtt, lambda: subscriber.heard)
    return f"| {tension_hz:g} | {cost.counted_hz:.1f} | {cost.cpu_pct:.1f} | {cost.resident_mb:.0f} |"


def fleet_row(wearers: int) -> str:
    """Let a fleet tell its day at 1 Hz."""
    allow_files(wearers)
    with own_broker() as broker:
        report = run_fleet(wearers, broker, 1.0, _SECONDS, threading.Event())
    cells = (
        wearers,
        f"{report.delivered_hz:.0f}",
        *(_late(report, qos) for qos in (0, 1)),
        f"{report.lost[0]} of {report.sent[0]}; {report.lost[1]} of {report.sent[1]}",
        f"{report.broker_cpu_pct:.1f}",
        f"{report.broker_mb:.1f}",
        f"{report.storm_s:.2f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def outbox_row(episodes: int) -> str:
    """Keep episodes while there is no broker; then let it come, and count until a subscriber has all of them."""
    ended = next(m for m in record_day(1.0).messages if isinstance(m, Episode) and m.event == "ended")
    settings, stamp = MqttSettings(), Stamp(time.time(), 0.0, known=True)
    with tempfile.TemporaryDirectory() as folder, own_broker() as broker:
        store = Store(Path(folder, "store.db"))
        delivery = Delivery(Contract("bench", lambda _: stamp, lambda: stamp), store)
        with contextlib.closing(delivery), _all_heard(broker.port, episodes) as heard:
            began = time.perf_counter()
            for _ in range(episodes):
                delivery.accept(replace(ended, id=uuid7(stamp.wall_s)))
            while len(store.waiting(0, episodes)) < episodes:
                time.sleep(0.005)
            kept, cpu = time.perf_counter(), time.process_time()
            link = partial(Link, settings, broker.host, broker.port, client_id="bench", will="unshrug/bench/status")
            delivery.connect(lambda tell: link(topics=(), tell=tell))
            if heard.wait(60):
                raise RuntimeError("the subscriber ended before it had everything")
            took, cpu = time.perf_counter() - kept, time.process_time() - cpu
    return f"| {episodes:,} | {kept - began:.2f} | {took:.2f} | {cpu:.2f} |"


@contextlib.contextmanager
def _all_heard(port: int, episodes: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A subscriber in a process of its own, which ends when it has heard so many episodes."""
    to = ["-h", "127.0.0.1", "-p", str(port), "-q", "1"]
    subprocess.run(["mosquitto_pub", *to, "-r", "-t", "unshrug/ready", "-m", "ready"], check=True)
    command = ["mosquitto_sub", *to, "-t", "unshrug/ready", "-t", "unshrug/bench/episode", "-C", str(episodes + 1)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()  # what is retained tells that it has subscribed
        drain = threading.Thread(target=process.stdout.read)
        drain.start()
        try:
            yield process
        finally:
            process.kill()
            drain.join()


def _late(report: Report, qos: int) -> str:
    p50, p99 = (report.delays[qos].ms(percent) for percent in (50, 99))
    return f"{p50:.1f} / {p99:.1f}"


def main() -> None:
    most = next(f.metadata["high"] for f in fields(MqttSettings) if f.name == "tension_hz")
    lines = [
        "# What publishing costs, and what a broker carries",
        "",
        _ABOUT,
        "",
        "## The service",
        "",
        _SERVICE,
        "",
        "| tension, Hz | messages/s | CPU, % | memory, MB |",
        "| --- | --- | --- | --- |",
        *(service_row(hz) for hz in sorted({min(hz, most) for hz in _TENSION_HZ})),
        "",
        "## After an outage",
        "",
        _OUTAGE,
        "",
        "| episodes | kept, s | delivered, s | CPU to deliver, s |",
        "| --- | --- | --- | --- |",
        outbox_row(1000),
        "",
        "## The broker",
        "",
        _FLEET,
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"|{' --- |' * len(_COLUMNS)}",
        *map(fleet_row, _FLEETS),
    ]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if "--write" in sys.argv:
        _PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
