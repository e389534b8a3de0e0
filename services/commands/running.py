"""The commands around board, recordings and broker."""

import argparse
import contextlib
import csv
import io
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsp.reference import Calibration
from firmware_bridge.boards import BOARDS, sends
from firmware_bridge.bridge import Bridge
from firmware_bridge.port import Port, PortError, found_ports, resolve
from firmware_bridge.probe import choose, identify_all
from firmware_bridge.recordings import WRITERS, ReadOptions, Recording, RecordingError, open_recording
from services.broker import BrokerError, answers, find_broker, free_port, mosquitto
from services.clock import Clock
from services.commands.mine import export as export_all
from services.commands.shared import (
    broker_host,
    config_home,
    config_path,
    forget_on_broker,
    load,
    stop_signal,
)
from services.decoding import DecodingError, decode_stream
from services.haptics import Haptics
from services.mqtt import visit
from services.recorder import Recorder, default_name
from services.screen import make_screen
from services.serving import RunsAlreadyError, board_with, inputs_of, only_one, serve
from services.settings import Settings, SettingsError, is_local

log = logging.getLogger(__name__)

_CHUNK = 65536


def demo(options: argparse.Namespace) -> int:
    """Show everything with a simulated wearer."""
    from firmware_bridge.simulator import REFERENCE_UV, REST_UV, PtyBoard, Wearer, framed_stream

    settings = Settings()
    settings = replace(
        settings,
        wearer=replace(settings.wearer, id="demo"),
        calibration=replace(settings.calibration, rest_uv=(REST_UV,), reference_uv=(REFERENCE_UV,)),
        board=replace(settings.board, channels=("left", "right")),
    )
    wearer = Wearer(channels=2, seed=options.seed)
    with PtyBoard(framed_stream(wearer)) as board, stop_signal() as stop:
        until = time.monotonic() + options.seconds if options.seconds else None
        screen = make_screen(headless=options.headless)
        screen.note(f"a simulated wearer on {board.path}; Ctrl-C ends this")
        settings = replace(settings, board=replace(settings.board, port=board.path))
        return serve(
            settings,
            screen,
            simulated=True,
            done=lambda _: stop.is_set() or (until is not None and time.monotonic() >= until),
        )


def run(options: argparse.Namespace) -> int:
    """Be the service."""
    settings = chosen_port(with_board(options))
    clock = Clock()
    recorder = None
    if options.record is not None:
        recorder = Recorder(options.record / default_name(settings.wearer.id, clock.wall()), clock)
    with stop_signal() as stop:
        screen = make_screen(headless=False, quiet=True)
        return serve(
            settings, screen, simulated=False, keeps=True, done=lambda _: stop.is_set(), clock=clock, recorder=recorder
        )


def record(options: argparse.Namespace) -> int:
    """Keep what the board sends in a file, and what is found in it."""
    settings = chosen_port(with_board(options))
    settings = replace(settings, cue=replace(settings.cue, enabled=False), mqtt=replace(settings.mqtt, enabled=False))
    clock = Clock()
    recorder = Recorder(options.out or Path(default_name(settings.wearer.id, clock.wall())), clock)

    def done(_: bytes) -> bool:
        over = options.seconds is not None and recorder.running_s >= options.seconds
        return over or stop.is_set() or recorder.error is not None

    with stop_signal() as stop:
        screen = make_screen(headless=True, quiet=True)
        screen.note(f"recording to {recorder.path}; Ctrl-C ends it")
        serve(settings, screen, simulated=True, done=done, clock=clock, recorder=recorder)
    if recorder.error is None and recorder.summary() is None:
        raise RecordingError(f"{recorder.path}: no samples came, so nothing was recorded")
    return int(recorder.error is not None)


def export(options: argparse.Namespace) -> int:
    """Write a recording as a table for other programs; without one, all that is kept of the wearer."""
    if options.recording is None:
        return export_all(options)
    write = WRITERS.get(options.out.suffix.lower())
    if write is None:
        raise RecordingError(f"{options.out}: expected a name that ends in {' or '.join(WRITERS)}")
    _known_board(options.board)
    write(open_recording(options.recording, _read_options(options)), options.out)
    return 0


def with_board(options: argparse.Namespace) -> Settings:
    """Read the settings, with the board and port that the options name instead."""
    settings = load(options)
    _known_board(options.board)
    board = settings.board
    board = replace(board, kind=options.board or board.kind, port=options.port or board.port)
    return replace(settings, board=board)


def _known_board(name: str | None) -> None:
    if name is not None and name not in BOARDS:
        raise SettingsError(f"--board: unknown board {name!r}; expected {' or '.join(BOARDS)}")


def replay(options: argparse.Namespace) -> int:
    """Play a recording as a board."""
    from firmware_bridge.simulator import PtyBoard, ascii_stream

    settings, recording, calibration = _prepare(options, options.recording)
    stream = ascii_stream(recording.codes(), recording.signal.rate_hz)
    with PtyBoard(stream, speed=options.speed, patient=True) as player, stop_signal() as stop:
        screen = make_screen(headless=False)
        settings = replace(
            settings,
            wearer=replace(settings.wearer, id="replay"),
            mqtt=replace(settings.mqtt, enabled=options.mqtt and settings.mqtt.enabled),
            cue=replace(settings.cue, quiet_hours=""),  # it is another time of day in the recording
        )
        code = serve(
            settings,
            screen,
            simulated=True,
            port=Port(player.path, 115200),
            bridge=Bridge(replace(recording.board, start=sends(b"b")), recording.signal.channels, check_rate=False),
            calibration=calibration,
            feels_motor=False,
            clock=Clock(options.speed),
            # The player has sent everything, and 50 ms without a byte say that everything was read.
            done=lambda data: stop.is_set() or (player.finished and not data),
        )
        if player.error is not None:
            raise player.error
        return code


def analyze(options: argparse.Namespace) -> int:
    """Analyze recordings; one that cannot be read is reported and does not keep the others from being."""
    from services.analysis import analyze as analyze_recording

    results, failed = [], False
    if options.out is not None and options.out.resolve() in [path.resolve() for path in options.recordings]:
        raise RecordingError(f"{options.out}: --out would overwrite the recording; expected another file")
    for path in options.recordings:
        try:
            settings, recording, calibration = _prepare(options, path)
            results.append(analyze_recording(recording, settings, calibration))
        except RecordingError as error:
            print(f"unshrug: {error}", file=sys.stderr)
            failed = True
    if results:
        text = {"json": _as_json, "csv": _as_csv, "table": _as_table}[options.format](results)
        if options.out is None:
            sys.stdout.write(text)
        else:
            try:
                options.out.write_text(text, encoding="utf-8")
            except OSError as error:
                raise RecordingError(f"{options.out}: {error.strerror}") from None
    return int(failed)


def _prepare(options: argparse.Namespace, path: Path) -> tuple[Settings, Recording, Calibration]:
    """Read settings and recording, and take the wearer's levels from the options or the recording."""
    from services.analysis import Given, calibrate

    settings = load(options)
    if options.mains:
        settings = replace(settings, filter=replace(settings.filter, mains=options.mains))
    _known_board(options.board)
    recording = open_recording(path, _read_options(options))
    given = Given(options.rest, options.rest_uv, tuple(options.reference), options.reference_uv)
    return settings, recording, calibrate(recording, settings, given)


def _read_options(options: argparse.Namespace) -> ReadOptions:
    return ReadOptions(
        options.rate, options.units, options.board, options.uv_per_count, options.adc_bits, options.channels
    )


def _as_json(results: list[dict[str, Any]]) -> str:
    shown = results[0] if len(results) == 1 else results
    return json.dumps(shown, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _as_csv(results: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    columns = ("kind", "start_s", "end_s", "mean_uv", "peak_uv", "mean_rve", "peak_rve", "truncated")
    table = csv.writer(out)
    table.writerow(("path", "channel", *columns))
    for result in results:
        for channel in result["channels"]:
            for event in channel["events"]:
                table.writerow((result["recording"]["path"], channel["name"], *(event[c] for c in columns)))
    return out.getvalue()


def _as_table(results: list[dict[str, Any]]) -> str:
    return "\n".join(map(_table_of, results))


def _table_of(result: dict[str, Any]) -> str:
    about, levels = result["recording"], result["calibration"]
    length = f"{about['duration_s']:.1f} s at {about['rate_hz']:g} Hz"
    lines = [f"{about['path']}: {length} ({levels['source']}); EMG of {_band(result['bands'][-1])}"]
    for k, channel in enumerate(result["channels"]):
        rms, rest = channel["rms_uv"], levels["rest_uv"][k]
        bad = sum(q["end_s"] - q["start_s"] for q in channel["quality"] if q["state"] == "bad")
        reasons = ", ".join(sorted({r for q in channel["quality"] for r in q["reasons"]}))
        lines.append(
            f"  {channel['name']}: rest {_or_dash(rest)} µV, median {_or_dash(rms['p50'])} µV, "
            f"valid {channel['valid_s']:.1f} s, bad {bad:.1f} s{f' ({reasons})' if reasons else ''}, "
            f"{_count(channel['events'], 'shrug')} sustained shrugs, "
            f"{_count(channel['events'], 'low_rest')} times low rest"
        )
        verdict = levels["verdicts"][k]
        if verdict["state"] != "ok" or verdict["sees_rest"] is False:
            lines.append(f"    {verdict['state']}: {'; '.join(verdict['reasons'])}")
        for event in channel["events"]:
            rve = "" if event["mean_rve"] is None else f", {event['mean_rve']:.0f} %RVE"
            cut = ", low rest" if event["kind"] == "low_rest" else ""
            cut += ", cut off" if event["truncated"] else ""
            length = event["end_s"] - event["start_s"]
            lines.append(
                f"    {event['start_s']:9.2f} - {event['end_s']:9.2f} s  {length:6.2f} s  "
                f"mean {event['mean_uv']:.1f} µV, peak {event['peak_uv']:.1f} µV{rve}{cut}"
            )
    return "\n".join(lines) + "\n"


def _band(band: dict[str, Any]) -> str:
    notches = " and ".join(f"{hz:g}" for hz in band["notches_hz"])
    return f"{band['low_hz']:g}-{band['high_hz']:g} Hz" + (f" without {notches} Hz" if notches else "")


def _count(events: list[dict[str, Any]], kind: str) -> int:
    return sum(event["kind"] == kind for event in events)


def _or_dash(value: float | None) -> str:
    return "--" if value is None else f"{value:.1f}"


def decode(options: argparse.Namespace) -> int:
    """Write a captured byte stream as CSV."""
    _known_board(options.board)
    board = BOARDS[options.board]
    most = board.most_channels
    if most and not 1 <= options.channels <= most:
        raise DecodingError(f"--channels: expected 1 to {most}, for the format of {board.name} does not tell")
    board = replace(board, uv_per_count=options.uv_per_count or board.uv_per_count)
    in_uv = options.units == "uV"
    with contextlib.ExitStack() as stack:
        try:
            raw = io.FileIO(0 if options.raw == "-" else options.raw, closefd=options.raw != "-")
            stack.callback(raw.close)
            chunks = iter(lambda: raw.read(_CHUNK) or b"", b"")
            tally = decode_stream(chunks, board, sys.stdout.write, channels=options.channels, in_uv=in_uv)
        except (IsADirectoryError, FileNotFoundError, PermissionError) as error:
            raise DecodingError(f"{options.raw}: {error.strerror}") from None
        except DecodingError as error:
            raise DecodingError(f"{options.raw}: {error}") from None
    sys.stdout.flush()
    print(f"unshrug: {tally}", file=sys.stderr)
    return 0


def boards(options: argparse.Namespace) -> int:
    """List the boards that are known, and the ports that are there with what answers on them."""
    print("Boards:")
    for board in BOARDS.values():
        scale = (
            f"{board.uv_per_count:.3g} µV a count" if board.uv_per_count else "board.uv_per_count must say the scale"
        )
        if board.describes_itself:
            scale = "tells rate and scale itself"
        rate = f", {board.rate_hz:g} Hz" if board.rate_hz else ""
        print(f"  {board.name:14} {board.title}; {board.baud} baud{rate}, {scale}")
        if board.note:
            print(f"  {'':14} ({board.note})")
    print("Ports:")
    found = [(port.path, port.title) for port in found_ports() if port.known]
    asked = [(options.port, "")] if options.port else found
    if asked:
        print("  asking each, for up to half a minute ...", flush=True)
    for (path, title), answer in zip(asked, identify_all([path for path, _ in asked]), strict=True):
        print(f"  {path}  {title and title + ': '}{answer.board or 'no board'}; {answer.seen}")
    for port in () if options.port else found_ports():
        if not port.known:
            print(f"  {port.path}  {port.title}: not asked; give it with --port")
    if not asked:
        print("  none that a board may be on; plug one in, or name one with --port")
    return 0


def simulate_fleet(options: argparse.Namespace) -> int:
    """Put many simulated wearers on a broker and say what it carried."""
    from services.fleet import FleetError, allow_files, run_fleet

    own = options.broker is None and options.port is None
    host, port = options.broker or "127.0.0.1", options.port or (free_port() if own else 1883)
    try:
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(stop_signal())
            allow_files(options.wearers)
            if not own and not answers(host, port):
                raise FleetError(
                    f"{host}:{port}: no MQTT broker answers; expected one there, or no --broker and --port"
                )
            broker = find_broker(replace(Settings().mqtt, broker="auto" if own else host, port=port))
            stack.callback(broker.close)
            whose = "a Mosquitto of its own" if broker.is_child else "found"
            print(f"{options.wearers} simulated wearers on {host}:{port} ({whose}); Ctrl-C ends them", flush=True)
            report = run_fleet(options.wearers, broker, options.tension_hz, options.seconds, stop)
    except (FleetError, BrokerError) as error:
        print(f"unshrug: {error}", file=sys.stderr)
        return 1
    print("\n".join(report.lines()))
    return int(report.lost[1] > 0 or (report.online < report.wearers and not stop.is_set()))


def mqtt(options: argparse.Namespace) -> int:
    """Do what `unshrug mqtt WHAT` asks for."""
    return {"setup": _set_up_broker, "forget": _forget}[options.what](options)


def _set_up_broker(options: argparse.Namespace) -> int:
    from services.broker_setup import Wanted, set_up

    home = Path("/etc/unshrug") if os.geteuid() == 0 else config_home() / "unshrug"
    wearers = tuple(options.wearer) or (load(options).wearer.id,)
    wanted = Wanted(wearers, tuple(options.host), options.bind, options.websocket, options.renew)
    print("\n".join(set_up((options.dir or home / "broker").absolute(), wanted)))
    return 0


def _forget(options: argparse.Namespace) -> int:
    """Remove what is retained of the wearer on the broker, so that Home Assistant has no such device any more."""
    settings = load(options)
    with only_one(settings.wearer.id):  # a service that runs would publish all of it again
        where = forget_on_broker(settings)
    print(f"{settings.wearer.id} is removed from {where}, and with that from Home Assistant")
    return 0


def chosen_port(settings: Settings) -> Settings:
    """Where `auto` finds more than one port, keep to the one with the wearer's board. Raises PortError."""
    found = [port.path for port in found_ports() if port.known]
    if settings.board.port != "auto" or len(found) < 2:
        return settings
    print(f"unshrug: {len(found)} ports; asking each for the board {settings.board.kind}", file=sys.stderr)
    return replace(settings, board=replace(settings.board, port=choose(settings.board.kind, found)))


def check(options: argparse.Namespace) -> int:
    """Look at everything that a run needs, and say what is wrong."""
    findings = list(_findings(options))
    for grade, what, detail in findings:
        print(f"{grade:5} {what:9} {detail}")
    return int(any(grade == "FAIL" for grade, _, _ in findings))


def _findings(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    settings = Settings()
    try:
        settings = with_board(options)
        path = config_path(options)
        inputs_of(board_with(settings), settings.board.channels)
        yield "ok", "settings", str(path) if path else "the defaults; no file is there"
    except SettingsError as error:
        yield "FAIL", "settings", str(error)
    yield _check_port(settings)
    yield _check_broker(settings)
    yield _check_motor(settings)
    yield (
        ("ok", "clock", "synchronized")
        if Clock().synchronised()
        else ("warn", "clock", "not known to be synchronized; times may be off until it is")
    )


def _check_motor(settings: Settings) -> tuple[str, str, str]:
    try:
        with only_one(settings.wearer.id):
            haptics = Haptics(settings.motor)
            haptics.close()
    except RunsAlreadyError:
        return "ok", "motor", "in use by the running service"
    except (SettingsError, OSError) as error:
        return "FAIL", "motor", str(error)
    return "warn" if haptics.simulated else "ok", "motor", haptics.name


def _check_port(settings: Settings) -> tuple[str, str, str]:
    try:
        device = resolve(settings.board.port)
    except PortError as error:
        return "FAIL", "port", str(error)
    if "://" in device:
        return "ok", "port", device
    port = Port(device, settings.board.baud or 115200)
    port.read()
    port.close()
    if port.problem and "another program" in port.problem:
        return "warn", "port", f"{port.problem} (it is busy while the service runs)"
    return ("FAIL", "port", port.problem) if port.problem else ("ok", "port", device)


def _check_broker(settings: Settings) -> tuple[str, str, str]:
    mqtt = settings.mqtt
    if not mqtt.enabled:
        return "ok", "broker", "MQTT is off in the settings"
    host = broker_host(mqtt)
    if mqtt.broker == "auto" and answers(host, mqtt.port) is None:
        if mosquitto():
            return "ok", "broker", "none runs; Mosquitto will be started"
        return "FAIL", "broker", f"no MQTT broker answers at {host}:{mqtt.port}; sudo apt install mosquitto"
    try:
        wrong = visit(mqtt, host, mqtt.port)
    except SettingsError as error:
        return "FAIL", "broker", str(error)
    if wrong is not None:
        return "FAIL", "broker", f"{host}:{mqtt.port}: {wrong}"
    if not is_local(host) and not mqtt.username:
        return "warn", "broker", f"{host}:{mqtt.port} asks for no password: anybody there can read and command"
    return "ok", "broker", f"{host}:{mqtt.port} answers"
