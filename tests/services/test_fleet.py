"""A fleet of simulated wearers on a real broker, as another client sees it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from services.broker import Broker, free_port
from services.cli import main
from services.fleet import Delays, names, record_day
from services.messages import Cue, Episode
from tests.services.conftest import LOOPBACK, UNSHRUG, Heard, eventually, listening, unshrug
from tests.services.test_broker import brokers_of

TWENTY = {f"unshrug/{name}" for name in names(20)}


@contextlib.contextmanager
def fleet(wearers: int, port: int) -> Iterator["subprocess.Popen[str]"]:
    """A fleet in a group of processes of its own, as under a terminal."""
    command = [UNSHRUG, "simulate-fleet", str(wearers), "--port", str(port), "--seconds", "100"]
    piped = subprocess.PIPE
    with subprocess.Popen(command, stdout=piped, stderr=piped, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def retained(port: int) -> list[str]:
    """Return the topics that a broker keeps something for: what whoever connects now gets before anything new."""
    with listening(port, "unshrug/+") as late:
        subprocess.run(
            ["mosquitto_pub", "-h", LOOPBACK, "-p", str(port), "-q", "1", "-t", "unshrug/test/now", "-m", "x"],
            check=True,
            timeout=10,
        )
        late.wait_for("unshrug/test/now")
        return [h.topic for h in late.heard if h.topic != "unshrug/test/now"]


def roots(heard: list[Heard], kind: str, payload: str | None = None) -> set[str]:
    """Return the roots of all who published this kind of message."""
    some = [h.topic for h in heard if payload is None or h.payload == payload]
    return {topic.removesuffix(f"/{kind}") for topic in some if topic.endswith(f"/{kind}")}


def test_every_wearer_of_a_fleet_speaks_the_contract_and_leaves_nothing_behind(broker: Broker) -> None:
    with listening(broker.port, "unshrug/+") as other:
        done = unshrug("simulate-fleet", 20, "--seconds", 3, "--tension-hz", 4, "--port", broker.port, seconds=60)
        assert done.returncode == 0, done.stderr
        assert "20 of 20 wearers online" in done.stdout
        said = re.search(r"QoS 1: 0 of (\d+) lost; delay p50 \d+\.\d ms, p99 \d+\.\d ms", done.stdout)
        assert said is not None, done.stdout
        eventually(lambda: sum(h.qos == 1 for h in other.drain()) >= int(said[1]))
        heard = other.drain()
    assert sum(h.qos == 1 for h in heard) == int(said[1])  # what it says it sent is what another client got, exactly
    assert roots(heard, "status", "online") == roots(heard, "status", "offline") == TWENTY
    assert roots(heard, "info") == roots(heard, "state") == roots(heard, "tension") == TWENTY
    told = [h for h in heard if h.payload and not h.topic.endswith("/status")]
    assert all(h.body["schema"] == f"unshrug.{h.topic.split('/')[2]}/1" for h in told)
    tensions = Counter(h.topic for h in told if h.topic.endswith("/tension"))
    assert min(tensions.values()) >= 8  # 4 a second
    assert all(h.expiry_s is not None and h.qos == 0 for h in told if h.topic in tensions)
    assert retained(broker.port) == []


def test_wearers_are_at_different_moments_of_their_days_and_episodes_are_their_own(broker: Broker) -> None:
    with listening(broker.port, "unshrug/+") as other, fleet(20, broker.port):
        other.wait_for("unshrug/fleet-0020/tension", seconds=40)
        eventually(lambda: sum(h.topic.endswith("/episode") for h in other.drain()) >= 4, 40)
        heard = other.drain()
    episodes = {h.topic: h.body["id"] for h in heard if h.topic.endswith("/episode")}
    assert len(set(episodes.values())) == len(episodes)
    levels = [h.body["channels"][0]["rms_uv"] for h in heard if h.topic.endswith("/tension")]
    assert len(set(levels)) > 10


def test_ctrl_c_ends_a_fleet_soon_and_cleans_up(broker: Broker) -> None:
    with listening(broker.port, "unshrug/+") as other, fleet(20, broker.port) as running:
        eventually(lambda: roots(other.drain(), "tension") == TWENTY, 40)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: every process gets it
        assert running.wait(5) == 0
        said, complained = running.communicate()
        assert "20 of 20 wearers online" in said
        assert complained == ""
    assert retained(broker.port) == []


def test_a_fleet_that_is_killed_is_cleared_off_the_broker_too(broker: Broker) -> None:
    with listening(broker.port, "unshrug/+") as other, fleet(5, broker.port) as running:
        other.wait_for("unshrug/fleet-0005/tension", seconds=40)
        running.kill()
        eventually(lambda: len(roots(other.drain(), "status", "offline")) == 5, 20)
        eventually(lambda: retained(broker.port) == [], 20)


def test_without_a_port_it_has_a_broker_of_its_own_and_says_what_that_took() -> None:
    done = unshrug("simulate-fleet", 3, "--seconds", 1, seconds=60)
    assert done.returncode == 0, done.stderr
    port = re.search(rf"{LOOPBACK}:(\d+) \(a Mosquitto of its own\)", done.stdout)
    assert port is not None, done.stdout
    assert re.search(r"broker: \d+\.\d % of a core, [1-9]\d*\.\d MB", done.stdout)
    assert brokers_of(int(port[1])) == []


def test_no_broker_is_1_and_one_line() -> None:
    port = free_port()
    done = unshrug("simulate-fleet", 3, "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    words = f"unshrug: {LOOPBACK}:{port}: no MQTT broker answers; expected one there, or no --broker and --port\n"
    assert done.stderr == words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("0",), "argument N: 0: expected a whole number of wearers, 1 to 5000"),
        (("5001",), "argument N: 5001: expected a whole number of wearers, 1 to 5000"),
        (("20", "--broker", "10.0.0.1"), "10.0.0.1: expected this machine (127.0.0.1, ::1 or localhost)"),
        (("20", "--broker", "broker.example"), "broker.example: expected this machine"),
        (("20", "--seconds", "3601"), "3601: expected 3600 s or less"),
        (("20", "--tension-hz", "50"), "50: expected 0.1 to 20 Hz"),
        (("20", "--port", "70000"), "70000: expected a TCP port, 1 to 65535"),
    ],
)
def test_wrong_use_of_a_fleet_is_2_and_says_what_was_expected(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["simulate-fleet", *arguments])
    assert end.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_too_few_open_files_are_a_sentence() -> None:
    code = (
        "import resource\n"
        "from services.fleet import FleetError, allow_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 400))\n"
        "allow_files(300)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "try: allow_files(301)\n"
        "except FleetError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    enough, few = done.stdout.splitlines()
    assert enough == "(400, 400)"
    assert few.startswith("301 wearers need 401 open files, and 400 are allowed here; expected fewer wearers")


def test_the_day_that_a_fleet_tells_has_a_whole_episode_with_a_cue() -> None:
    day = record_day(1.0)
    events = [m.event for m in day.messages if isinstance(m, Episode)]
    assert (events[0], events[-1]) == ("started", "ended")
    assert any(isinstance(m, Cue) and m.outcome == "given" for m in day.messages)
    assert all(0 <= m.at_s <= day.seconds + 1 for m in day.messages)


def test_delays_are_told_to_five_per_cent_however_many_there_are() -> None:
    delays = Delays()
    assert delays.ms(50) is None
    for ms in range(1, 1001):
        delays.add(ms * 1_000_000)
    assert delays.ms(50) == pytest.approx(500, rel=0.05)
    assert delays.ms(99) == pytest.approx(990, rel=0.05)
