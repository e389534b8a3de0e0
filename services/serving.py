"""The service put together: board, signal chain, motor, store, broker and screen, taken down in the right order."""

import contextlib
import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol, get_args

from dsp.reference import Calibration
from firmware_bridge.boards import BOARDS, Board
from firmware_bridge.brainflow_stream import PREFIX, board_of
from firmware_bridge.bridge import UNUSED, Bridge
from firmware_bridge.port import Port
from services.broker import Broker, BrokerError, find_broker
from services.button import Button
from services.clock import Clock
from services.contract import Contract, Publication, root_of, text_of
from services.daemon import Service, Sink, Threaded
from services.day import Day
from services.delivery import Delivery
from services.gpio import open_button
from services.haptics import Haptics
from services.homeassistant import BIRTH, discovery
from services.messages import AskStore, Message, Period, Reply
from services.mqtt import Link, News
from services.pipeline import Pipeline
from services.plan import load_plan
from services.recorder import Recorder
from services.records import Records, calibration_for, cues_before
from services.safety import FIRST_USE
from services.screen import LiveScreen, Screen, ScreenLog
from services.settings import MqttSettings, Settings, SettingsError, StoreSettings
from services.steering import Steering, with_live
from services.store import Store, StoreError

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 10.0
_DAYS_KEPT = timedelta(days=8)


class Attendant(Sink, Protocol):
    """Who is there in this process."""

    def answered(self, reply: Reply) -> None:
        """Take the answer to what was asked, and return soon."""
        ...


def serve(
    settings: Settings,
    screen: Screen,
    *,
    simulated: bool,
    done: Callable[[bytes], bool],
    keeps: bool = False,
    port: Port | None = None,
    bridge: Bridge | None = None,
    calibration: Calibration | None = None,
    feels_motor: bool = True,
    clock: Clock | None = None,
    recorder: Recorder | None = None,
    attend: Callable[[Service], Attendant] | None = None,
) -> int:
    """Run the loop with everything around it until `done`; return the exit code.

    `keeps` says whether what happens is kept for good; else it is for as long as this lasts. `attend` makes who is
    there to ask and to be answered in this process.
    """
    bridge = bridge or bridge_of(settings)
    clock = clock or Clock()
    with contextlib.ExitStack() as stack:
        stack.callback(screen.close)
        if settings.mqtt.enabled or not simulated:  # before the motor: its pin may be another service's
            stack.enter_context(only_one(settings.wearer.id))
        if isinstance(screen, LiveScreen):
            stack.enter_context(_log_to(ScreenLog(screen)))
        shown = Threaded(screen, "screen")
        stack.callback(shown.close)
        store = _store(settings, stack, keeps=keeps) if keeps or settings.mqtt.enabled else None
        plan = load_plan(Path(settings.plan.file)) if settings.plan.file and keeps else None
        given, (settings, live, withdrawn) = settings, _with_what_was_changed(settings, store)
        haptics = Haptics(settings.motor, simulated=simulated, on_change=screen.motor)
        stack.callback(haptics.close)
        pipeline = Pipeline(
            settings,
            calibration,
            feels_motor=feels_motor,
            recall=partial(_tally, store, settings),
            known=lambda signal: calibration_for(store, signal) if store else None,
        )
        service = Service(
            port or Port(settings.board.port, settings.board.baud or bridge.board.baud),
            bridge,
            pipeline,
            haptics,
            clock=clock,
            on_board=lambda problem: shown.do(partial(screen.note, f"board: {problem or 'ok'}")),
        )
        if settings.cue.enabled:
            screen.note(f"motor: {haptics.name}{' (simulated)' if haptics.simulated else ''}")
        if keeps and store is not None:
            with contextlib.suppress(StoreError):  # a full disk, say
                for line in first_use(store):
                    screen.note(line)
        if keeps or settings.mqtt.enabled:
            broker = _broker(settings, service, stack) if settings.mqtt.enabled else None
            announces = keeps and settings.mqtt.discovery
            delivery = add_delivery(settings, service, store, announces=announces)
            stack.callback(delivery.close)
            attendant = attend(service) if attend is not None else None

            def answer(answer: Reply | AskStore) -> None:
                delivery.answer(answer)
                if attendant is not None and isinstance(answer, Reply):
                    attendant.answered(answer)

            steering = Steering(given, live, withdrawn, pipeline, haptics, answer, delivery.keep, clock.wall)
            if attendant is not None:
                service.sinks.append(attendant)
            service.obey = steering.obey
            if store is not None:
                delivery.tend = partial(_tend, Records(store, plan, clock.now), service, steering)
                _take_up(store, service, pipeline, clock)
            if settings.button.pin >= 0 and not simulated:
                _add_button(settings, service, pipeline, clock, stack)
            if broker is not None:
                _connect(settings, delivery, broker, screen)
        service.sinks.append(shown)
        if recorder is not None:
            _add_recorder(recorder, service, lambda text: shown.do(partial(screen.note, text)), stack)
        service.run(done)
    return 0


def first_use(store: Store) -> list[str]:
    """Return what a wearer should read before the first use; it is noted that they have. Raises StoreError."""
    if store.kept("first_use"):
        return []
    store.keep("first_use", True)
    return list(FIRST_USE)


def state_folder(settings: StoreSettings) -> Path:
    """Return where the wearer's data are kept: as set, else where systemd says, else the user's own place."""
    if settings.folder:
        return Path(settings.folder).expanduser()
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "unshrug"


def _store(settings: Settings, stack: contextlib.ExitStack, *, keeps: bool) -> Store | None:
    """Open the wearer's store. Where that cannot be, cues go on without one."""
    try:
        if keeps:
            folder = state_folder(settings.store)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unshrug-")))
        store = Store(folder / f"{settings.wearer.id}.sqlite3", settings.store.most_mib, run=os.urandom(8).hex())
    except (StoreError, OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        log.error("%s; cues go on, and what happens is held in memory", error)
        return None
    try:
        for period in get_args(Period):
            store.forget(f"{period}/", f"{period}/{(date.today() - _DAYS_KEPT).isoformat()}")
    except StoreError as error:  # a full disk, say, which may have room later
        log.error("%s", error)
    return store


def _with_what_was_changed(settings: Settings, store: Store | None) -> tuple[Settings, dict[str, Any], list[str]]:
    """Return the settings with what was changed while an earlier run lasted, that alone, and what was withdrawn."""
    try:
        live = (store.kept("live") if store else None) or {}
        withdrawn = (store.kept("withdrawn") if store else None) or []
        changed = with_live(settings, live)
    except (StoreError, SettingsError, ValueError, AttributeError) as error:
        log.error("what was changed while the service ran is left out: %s", error)
        return settings, {}, []
    for key, value in live.items():
        log.info(
            "%s is %s, as it was set while the service ran; the settings file says %s", key, value, settings.live()[key]
        )
    return changed, live, withdrawn


def _tally(store: Store | None, settings: Settings, period: Period, date: str) -> dict[str, Any] | None:
    """Return what is known of this day or night, None where that is nothing, or nothing that can be used."""
    try:
        tally: dict[str, Any] | None = store.kept(f"{period}/{date}") if store else None
        Day(date, settings.exposure, tally)
    except (StoreError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.error("what is known of this %s is left out: %r", period, error)
        return None
    return tally


def _tend(records: Records, service: Service, steering: Steering, changes: int) -> None:
    """Go by the wearer's records, where they have changed."""
    terms = records.terms(changes)
    if terms is not None:
        service.do(partial(steering.follow, terms))


def _take_up(store: Store, service: Service, pipeline: Pipeline, clock: Clock) -> None:
    """Go on where the last run of the program ended: its cues count, and its snooze lasts."""
    try:
        now = clock.now()
        ages_s, drawn = cues_before(store, now)
        snoozed_s = (store.kept("snoozed_until") or 0.0) - clock.wall()
    except (StoreError, ValueError, KeyError, TypeError) as error:
        log.error("the cues of the last run are left out: %s", error)
        return

    def take_up(at_s: float) -> Iterator[Message]:
        pipeline.remember(ages_s, now.date(), drawn, at_s)
        if snoozed_s > 0:
            yield from pipeline.snooze(at_s + snoozed_s, at_s)

    service.do(take_up)


def _add_button(
    settings: Settings, service: Service, pipeline: Pipeline, clock: Clock, stack: contextlib.ExitStack
) -> None:
    try:
        is_pressed, close = open_button(settings.button)
    except SettingsError as error:
        log.error("%s; cues go on without the button", error)
        return
    stack.callback(close)
    button = Button(
        settings.button,
        is_pressed,
        service.ask,
        lambda: pipeline.snoozed,
        lambda: clock.now().isoformat("T", "seconds"),
    )
    service.chores.append(button.poll)


def add_delivery(settings: Settings, service: Service, store: Store | None, *, announces: bool) -> Delivery:
    """Let messages be kept and published, and requests be heard."""
    contract = Contract(settings.wearer.id, service.stamp, service.now)
    announce = partial(_announcement, contract.root, settings.wearer.id) if announces else None
    delivery = Delivery(contract, store, ask=service.ask, announce=announce)
    service.sinks.append(delivery)

    def follow_clock() -> None:
        now = service.now()
        delivery.restate(now.wall_s - now.mono_s, known=now.known)

    service.on_clock_set.append(follow_clock)
    return delivery


def _announcement(root: str, wearer: str, info: str) -> Publication:
    topic, body = discovery(root, wearer, json.loads(info))
    return Publication(topic, text_of(body), retain=True, absolute=True)


def _broker(settings: Settings, service: Service, stack: contextlib.ExitStack) -> Broker | None:
    try:
        broker = find_broker(settings.mqtt)
    except BrokerError as error:
        log.warning("%s; cues go on without MQTT", error)
        return None
    stack.callback(broker.close)
    service.chores.append(broker.revive)
    return broker


def link_of(wearer: str, broker: Broker, settings: MqttSettings, hear: Callable[[News], None]) -> Link:
    """Connect a wearer's service: it hears requests, and Home Assistant start. Raises SettingsError."""
    root = root_of(wearer)
    return Link(
        settings,
        broker.host,
        broker.port,
        client_id=f"unshrug-{wearer}-service",
        will=f"{root}/status",
        topics=(f"{root}/cmd/+", BIRTH),
        tell=hear,
    )


def _connect(settings: Settings, delivery: Delivery, broker: Broker, screen: Screen) -> None:
    delivery.connect(partial(link_of, settings.wearer.id, broker, settings.mqtt))
    whose = "started for this run" if broker.is_child else "found"
    screen.note(f"MQTT: {broker.host}:{broker.port} ({whose}); see it from another terminal:")
    screen.note(f"  mosquitto_sub -h {broker.host} -p {broker.port} -v -t '{root_of(settings.wearer.id)}/#'")


def bridge_of(settings: Settings) -> Bridge:
    """Return the bridge for the board of the settings. Raises SettingsError."""
    through_brainflow = settings.board.port.startswith(PREFIX)
    board = board_of(settings.board.port) if through_brainflow else board_with(settings)
    inputs = inputs_of(board, settings.board.channels)
    if board.note:
        log.warning("%s: %s", board.title, board.note)
    if inputs and not settings.board.channels:
        log.warning("only the first input is used; board.channels names those in use")
    return Bridge(board, inputs)


def board_with(settings: Settings) -> Board:
    """Return the board of the settings, with what they add to it. Raises SettingsError."""
    given = settings.board
    board = BOARDS[given.kind]
    board = replace(
        board,
        rate_hz=given.rate_hz or board.rate_hz,
        uv_per_count=given.uv_per_count or board.uv_per_count,
        adc_bits=given.adc_bits or board.adc_bits,
    )
    if not board.describes_itself and not board.rate_hz:
        raise SettingsError(f"board.rate_hz: expected the rate at which {board.title} sends, in Hz")
    if not board.describes_itself and not board.uv_per_count:
        raise SettingsError(
            f"board.uv_per_count: expected the µV at the electrodes that a step of {board.title} is worth"
        )
    return board


def inputs_of(board: Board, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a board's inputs, in their order; without any it is the first input of several.

    Raises SettingsError where the board has not got such inputs.
    """
    if names and all(name == UNUSED for name in names):
        raise SettingsError(f'board.channels: expected a name for each input in use, and "{UNUSED}" for others')
    if board.most_channels and len(names) > board.most_channels:
        raise SettingsError(f"board.channels: {len(names)} names; {board.title} has {board.most_channels} inputs")
    for k, (name, step) in enumerate(zip(names, board.steps, strict=False)):
        if name != UNUSED and step != 1:
            raise SettingsError(f"board.channels: {name!r} is on {board.label}{k + 1}; {board.note}")
    return names or (("ch1",) if board.has_spare else ())


def _add_recorder(
    recorder: Recorder, service: Service, note: Callable[[str], None], stack: contextlib.ExitStack
) -> None:
    """Let the recorder have blocks and messages, in a thread of its own: what it cannot keep up with is a gap."""
    kept = Threaded(recorder, "recorder", last=recorder.close)
    due_s = _REPORT_EVERY_S

    def report() -> None:
        nonlocal due_s
        if recorder.running_s >= due_s and recorder.error is None:
            due_s += _REPORT_EVERY_S
            note(recorder.summary() or "")

    def close() -> None:
        if not kept.close() and recorder.error is None:
            recorder.error = f"{recorder.path}: writing takes too long; the end is missing"
            log.error("%s", recorder.error)
        if recorder.error is None and (said := recorder.summary()):
            note(said)

    stack.callback(close)
    service.taps.append(lambda block: kept.do(partial(recorder.block, block)))
    service.sinks.append(kept)
    service.chores.append(report)


class RunsAlreadyError(SettingsError):
    """The wearer has a service."""


def lock_path(wearer: str) -> Path:
    """Return the file that the wearer's service holds."""
    return Path(tempfile.gettempdir(), f"unshrug-{os.getuid()}-{wearer}.lock")


@contextlib.contextmanager
def only_one(wearer: str) -> Iterator[None]:
    """Hold the wearer's lock: two services for one wearer would throw each other off the broker for ever."""
    with lock_path(wearer).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunsAlreadyError(f"wearer.id: another unshrug runs for {wearer!r}; expected one per wearer") from None
        yield


@contextlib.contextmanager
def _log_to(handler: logging.Handler) -> Iterator[None]:
    root = logging.getLogger()
    before, root.handlers = root.handlers, [handler]
    try:
        yield
    finally:
        root.handlers = before
