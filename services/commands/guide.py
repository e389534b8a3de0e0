"""Calibrations and exercises at the terminal: with the service that runs for the wearer, else with one of their own."""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from functools import partial
from typing import Any

from services.broker import BrokerError, answers
from services.commands.running import chosen_port, with_board
from services.commands.shared import broker_host, existing_store, load, stop_signal, tell_first_use
from services.contract import Contract, root_of
from services.daemon import Service
from services.exercises import EXERCISES
from services.guiding import Guiding, keys
from services.messages import Message, Reply, Request
from services.mqtt import Link, News, Received, Up
from services.screen import guide_screen, no_screen
from services.serving import RunsAlreadyError, only_one, serve
from services.settings import Settings, SettingsError

_TOPICS = ("calibration", "exercise", "tension", "reply")


def calibrate(options: argparse.Namespace) -> int:
    """Guide the wearer through a calibration, or show those that were."""
    if options.history:
        return _history(options, "calibration", _calibration_line)
    if not _runs_on_battery(options):
        return 1
    start = {"quick": options.quick, "pain": _pain(options)}
    return _guide(options, "calibrate", start)


def exercise(options: argparse.Namespace) -> int:
    """Guide the wearer through an exercise, or show those that there are or were."""
    if options.history:
        return _history(options, "exercise", _exercise_line)
    if options.name is None:
        for one in EXERCISES.values():
            print(f"  {one.name:16} {one.title}{f'. {one.note}' if one.note else ''}")
        return 0
    if options.minutes is not None and options.name != "breathing":
        raise SettingsError("--minutes: expected only with breathing")
    minutes = {} if options.minutes is None else {"minutes": options.minutes}
    return _guide(options, "exercise", {"name": options.name, **minutes})


def _pain(options: argparse.Namespace) -> int:
    if options.pain is not None:
        return int(options.pain)
    said = _answer("Pain in head or neck now, from 0 (none) to 10 [0]: ") or "0"
    if not (said.isascii() and said.isdigit() and int(said) <= 10):
        raise SettingsError(f"pain: expected a whole number from 0 to 10, got {said!r}")
    return int(said)


def _runs_on_battery(options: argparse.Namespace) -> bool:
    if options.battery:
        return True
    print("Electrodes and mains do not go together: board and Pi on battery, or a certified USB isolator between them.")
    if _answer("Is that so? [y/N]: ").lower() in ("y", "yes"):
        return True
    print("unshrug: nothing was begun; put the body side on battery first", file=sys.stderr)
    return False


def _answer(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:
        return ""


def _guide(options: argparse.Namespace, verb: str, start: dict[str, Any]) -> int:
    settings = with_board(options)
    tell_first_use(settings)
    guided = Guiding(verb, start)
    try:
        with only_one(settings.wearer.id):
            free = True
    except RunsAlreadyError:
        free = False
    with stop_signal() as stop, keys(guided.key), guide_screen(guided):
        if free:
            _in_this_process(chosen_port(settings), guided, stop.is_set)
        else:
            _with_the_service(settings, guided, stop.is_set)
    print("\n".join(guided.summary()))
    return guided.code


class _Attendant:
    """Hear what a service in this process says, as others hear it over MQTT."""

    def __init__(self, wearer: str, service: Service, guided: Guiding) -> None:
        self._contract = Contract(wearer, service.stamp, service.now)
        self._guided = guided
        guided.ask = lambda verb, body: service.ask(Request(verb, body))

    def accept(self, message: Message) -> None:
        """Take what the pipeline says."""
        for publication in self._contract.publications(message):
            self._guided.hear(publication.topic, json.loads(publication.payload))

    def answered(self, reply: Reply) -> None:
        """Take the answer to a request."""
        self._guided.hear("reply", json.loads(self._contract.reply(reply).payload))


def _in_this_process(settings: Settings, guided: Guiding, stopped: Any) -> None:
    settings = replace(settings, cue=replace(settings.cue, enabled=False), mqtt=replace(settings.mqtt, enabled=False))

    def done(_: bytes) -> bool:
        if stopped() and not guided.stopping:
            guided.stop()
        guided.tick()
        return guided.over.is_set()

    attend = partial(_Attendant, settings.wearer.id, guided=guided)
    serve(settings, no_screen(), simulated=False, keeps=True, done=done, attend=attend)


def _with_the_service(settings: Settings, guided: Guiding, stopped: Any) -> None:
    mqtt, root = settings.mqtt, root_of(settings.wearer.id)
    host = broker_host(mqtt)
    if not mqtt.enabled or answers(host, mqtt.port) is None:
        raise BrokerError(
            f"{host}:{mqtt.port}: a service runs for {settings.wearer.id}, and no broker over which to reach it; "
            "expected one, or the service to be stopped"
        )

    def hear(news: News) -> None:
        if isinstance(news, Up):
            guided.ask = lambda verb, body: _publish(link, f"{root}/cmd/{verb}", body)
        elif isinstance(news, Received) and news.topic.startswith(f"{root}/"):
            guided.hear(news.topic.removeprefix(f"{root}/"), json.loads(news.payload))

    link = Link(
        mqtt, host, mqtt.port, client_id=f"unshrug-{settings.wearer.id}-guide-{os.urandom(3).hex()}", will=None,
        topics=tuple(f"{root}/{topic}" for topic in _TOPICS), tell=hear,
    )  # fmt: skip
    try:
        while not guided.over.is_set():
            if stopped() and not guided.stopping:
                guided.stop()
            guided.tick()
            time.sleep(0.1)
    finally:
        link.close()


def _publish(link: Link, topic: str, body: dict[str, Any]) -> None:
    link.publish(topic, json.dumps(body), expiry_s=10)


def _history(options: argparse.Namespace, topic: str, line: Any) -> int:
    store = existing_store(load(options))
    kept = store.latest(topic) if store else []
    for payload in kept:
        print(line(payload))
    if not kept:
        print("none yet")
    return 0


def _calibration_line(payload: dict[str, Any]) -> str:
    levels = ", ".join(f"{v:.1f}" for v in payload["reference_uv"] or ()) or "--"
    cv = ", ".join(f"{v:.0f} %" for v in payload["cv_pct"] or ()) or "--"
    why = f" ({payload['reason']})" if payload["reason"] else ""
    kind = "quick check" if payload["quick"] else "calibration"
    return (
        f"{payload['t'][:16].replace('T', ' ')} UTC  {kind} {payload['outcome']}{why}; reference {levels} µV, CV {cv}"
    )


def _exercise_line(payload: dict[str, Any]) -> str:
    def shown_as(values: list[float | None]) -> str:
        return ", ".join("--" if v is None else f"{v:.1f}" for v in values)

    levels = f"{shown_as(payload['before_uv'])} -> {shown_as(payload['after_uv'])} µV"
    return f"{payload['t'][:16].replace('T', ' ')} UTC  {payload['name']} {payload['outcome']}; tension {levels}"
