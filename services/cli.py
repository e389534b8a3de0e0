"""The command line: parse, call, print."""

import argparse
import errno
import io
import logging
import math
import os
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

# Nothing heavy is imported here: --help must answer at once, on a Pi too.

_EXERCISES = ("trap-stretch", "levator-stretch", "chin-tuck", "shoulder-drop", "breathing")
_UNITS = ("uV", "mV", "V", "counts")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command; exit 0 when done, 1 when it failed, 2 when it was used wrongly."""
    if sys.stdout is None or sys.stderr is None:  # closed before the start: nobody is to be told anything
        nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without µ
    try:
        try:
            options = _parser().parse_args(arguments)
            logging.basicConfig(level=logging.INFO, format="unshrug: %(message)s", stream=sys.stderr)
            code = _call(options)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except OSError as error:  # a full disk behind the output, say
        where = error.filename or ("the output" if error.errno == errno.ENOSPC else "")
        print(f"unshrug: {where}{': ' if where else ''}{error.strerror or error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still waiting to be printed has nowhere to go
        code = 1
    sys.exit(code)


def _call(options: argparse.Namespace) -> int:
    from services import commands

    try:
        return commands.COMMANDS[options.command](options)
    except commands.FAILURES as error:
        print(f"unshrug: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unshrug",
        description="Neck-tension biofeedback: EMG in, a gentle cue and MQTT out. "
        "Research and education software, not a medical device.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="the whole product with a simulated wearer, no hardware needed")
    demo.add_argument("--seconds", type=_positive, metavar="N", help="end by itself after N seconds")
    demo.add_argument("--headless", action="store_true", help="plain lines instead of the live view")
    demo.add_argument("--seed", type=_seed, default=1, help="another wearer for another number (default 1)")

    run = commands.add_parser("run", help="the service: board, tension, cues, MQTT")
    _settings(run)
    run.add_argument("--record", type=Path, metavar="FOLDER", help="keep the samples too, in a new BDF+ file there")

    record = commands.add_parser("record", help="keep what the board sends in a BDF+ file, without cues")
    _settings(record)
    record.add_argument("--out", type=Path, metavar="FILE", help="default: unshrug-WEARER-TIME.bdf, here")
    record.add_argument("--seconds", type=_positive, metavar="N", help="end by itself after N seconds of samples")

    export = commands.add_parser("export", help="a recording as a table; without one, all that is kept of the wearer")
    export.add_argument("recording", type=Path, nargs="?", metavar="RECORDING")
    export.add_argument(
        "--out", type=Path, metavar="FILE", required=True,
        help="a new file that ends in .parquet or .csv, for all that is kept in .zip",
    )  # fmt: skip
    _config(export)
    _about(export)

    replay = commands.add_parser("replay", help="play a recording as a board, through the same bytes and pipeline")
    replay.add_argument("recording", type=Path, metavar="RECORDING")
    replay.add_argument("--speed", type=_speed, default=1.0, metavar="X", help="times as fast as life (default 1)")
    replay.add_argument("--mqtt", action="store_true", help="publish too, below unshrug/replay")
    _recording(replay)

    analyze = commands.add_parser("analyze", help="find events in recordings and measure levels and quality")
    analyze.add_argument("recordings", type=Path, nargs="+", metavar="RECORDING")
    analyze.add_argument("--format", choices=("table", "json", "csv"), default="table")
    analyze.add_argument("--out", type=Path, metavar="FILE", help="write there instead of to the terminal")
    _recording(analyze)

    decode = commands.add_parser("decode", help="a captured byte stream as CSV, with counters, losses and damage")
    decode.add_argument("raw", metavar="RAW", help="the file; - for standard input")
    decode.add_argument("--board", required=True, metavar="NAME", help="which board sent it; see `unshrug boards`")
    decode.add_argument("--channels", type=int, default=0, metavar="N", help="how many, where the format does not tell")
    decode.add_argument("--units", type=_unit, choices=("counts", "uV"), default="counts")
    decode.add_argument("--uv-per-count", type=_positive, metavar="X", help="size of one count at the electrodes in µV")

    fleet = commands.add_parser("simulate-fleet", help="many simulated wearers on one broker, to see what it carries")
    fleet.add_argument("wearers", type=_wearers, metavar="N", help="how many, 1 to 5000")
    fleet.add_argument("--seconds", type=_fleet_seconds, default=30.0, metavar="S", help="how long (default 30)")
    fleet.add_argument("--broker", type=_this_machine, metavar="HOST", help="a broker on this machine (127.0.0.1)")
    fleet.add_argument("--port", type=_tcp_port, metavar="PORT", help="its port (1883)")
    fleet.add_argument(
        "--tension-hz",
        type=_tension_hz,
        default=1.0,
        metavar="HZ",
        help="live levels per wearer and second (default 1)",
    )
    fleet.epilog = (
        "Without --broker and --port it starts a Mosquitto of its own. Nothing of the fleet stays on the broker."
    )

    _machine(commands)

    _mqtt(commands)

    _guides(commands)
    _diary(commands)
    _plan(commands)

    forget = commands.add_parser("forget-me", help="delete all that is kept of the wearer")
    _config(forget)
    forget.add_argument("--yes", action="store_true", help="without asking")

    return parser


def _machine(commands: Any) -> None:
    boards = commands.add_parser("boards", help="the boards that Unshrug knows, and what answers on the ports")
    boards.add_argument("--port", metavar="PORT", help="ask this one only, a device or a pyserial URL")
    check = commands.add_parser("check", help="a doctor for settings, broker, port, motor, permissions and clock")
    _settings(check)


def _guides(commands: Any) -> None:
    calibrate = commands.add_parser("calibrate", help="guided rest and gentle reference holds; the result is kept")
    _settings(calibrate)
    calibrate.add_argument("--quick", action="store_true", help="only check what was calibrated before: one hold")
    calibrate.add_argument("--pain", type=int, choices=range(11), metavar="N", help="pain now, 0 to 10 (else it asks)")
    calibrate.add_argument("--battery", action="store_true", help="the body side runs on battery (else it asks)")
    calibrate.add_argument("--history", action="store_true", help="show the calibrations that were")

    exercise = commands.add_parser("exercise", help="guided exercises and paced breathing; without NAME it lists them")
    exercise.add_argument("name", nargs="?", choices=_EXERCISES, metavar="NAME", help=", ".join(_EXERCISES))
    _settings(exercise)
    exercise.add_argument("--minutes", type=_breathing_min, metavar="N", help="of breathing, 1 to 10 (default 3)")
    exercise.add_argument("--history", action="store_true", help="show the exercises that were")


def _diary(commands: Any) -> None:
    diary = commands.add_parser("diary", help="headaches, days without, therapy, check-ins: write, read, export")
    whats = diary.add_subparsers(dest="what", required=True, metavar="WHAT")

    add = whats.add_parser("add", help="a headache that is there now, or was; --none for a day without one")
    _entry(add)
    add.add_argument("--none", nargs="?", const="today", metavar="DATE", help="there was none on that day (today)")

    end = whats.add_parser("end", help="the open headache is over")
    end.add_argument("--at", default="now", metavar="TIME", help="when (now)")

    edit = whats.add_parser("edit", help="change an entry; what it said before stays in the store")
    edit.add_argument("id", metavar="ID", help="the last signs of it, as `list` shows them")
    _entry(edit)

    remove = whats.add_parser("remove", help="take an entry away")
    remove.add_argument("id", metavar="ID")

    shown = whats.add_parser("list", help="what is in it, and the check-ins that are due")
    shown.add_argument("--days", type=_days, metavar="N", help="of the last N days only")
    shown.add_argument("--format", choices=("table", "json"), default="table")

    export = whats.add_parser("export", help="the diary as a new .csv or .json file")
    export.add_argument("out", type=Path, metavar="FILE")

    therapy = whats.add_parser("therapy", help="a session with a therapist; you are asked about it a day and two after")
    therapy.add_argument("--at", dest="start", metavar="TIME", help="when (now)")
    therapy.add_argument("--note", metavar="TEXT")

    checkin = whats.add_parser("checkin", help="the questions that are due, and your answers")
    checkin.add_argument("number", nargs="?", type=int, metavar="N", help="which one to answer")
    checkin.add_argument("--pain", type=int, metavar="0-10", help="in head or neck now")
    checkin.add_argument("--headache", type=_yes, metavar="yes|no", help="whether there was one since")
    checkin.add_argument("--worse", type=_yes, metavar="yes|no", help="whether it made something worse")
    checkin.add_argument("--symptoms", type=_names_list, metavar="A,B")
    checkin.add_argument("--note", metavar="TEXT")
    resume = whats.add_parser("resume", help="cues may come again, after a headache that is over")
    triggers = whats.add_parser("triggers", help="tension before headaches, compared with other weeks; counts first")
    for what in (add, end, edit, remove, shown, export, therapy, checkin, resume, triggers):
        _config(what)


def _plan(commands: Any) -> None:
    plan = commands.add_parser("plan", help="where the wearer is in the plan, why, and what cues have done")
    _config(plan)
    plan.add_argument("--format", choices=("table", "json"), default="table")
    whats = plan.add_subparsers(dest="what", metavar="WHAT")
    new = whats.add_parser("new", help="write the usual plan, to be edited")
    new.add_argument("file", type=Path, metavar="FILE")
    new.add_argument("--start", type=_date, metavar="DATE", help="its first day (today)")
    check = whats.add_parser("check", help="say whether a plan can be used")
    check.add_argument("file", type=Path, metavar="FILE")


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: expected a date such as 2026-01-31") from None


def _entry(parser: argparse.ArgumentParser) -> None:
    when = "now, 2h ago, 16:00, yesterday 16:00 or 2026-01-31 16:00"
    parser.add_argument("--start", metavar="TIME", help=f"when it began: {when} (now)")
    parser.add_argument("--end", metavar="TIME", help="when it was over; else it is open")
    parser.add_argument("--peak", type=int, metavar="0-10", help="the worst of it")
    parser.add_argument("--side", choices=("left", "right", "both"))
    parser.add_argument("--quality", choices=("pressing", "throbbing", "stabbing", "other"))
    for name, meaning in (
        ("neck-pain", "the neck hurt"), ("nausea", "nausea or vomiting"), ("light", "light was unpleasant"),
        ("sound", "sound was unpleasant"), ("aura", "something was seen or felt before it"),
        ("effort", "moving about made it worse"), ("sudden", "it was there within a minute"),
        ("relief", "the medicine helped within two hours"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help=meaning)
    symptoms = "weakness, numbness, speech, vision, walking, confusion, dizziness, fever, injury, changed, skin"
    parser.add_argument("--symptoms", type=_names_list, metavar="A,B", help=f"what else there was: {symptoms}")
    parser.add_argument("--medicine", metavar="TEXT", help="what was taken against it")
    parser.add_argument("--trigger", metavar="TEXT", help="what you suspect")
    parser.add_argument("--note", metavar="TEXT")


def _mqtt(commands: Any) -> None:
    mqtt = commands.add_parser("mqtt", help="a broker for real use, and what Home Assistant is told")
    whats = mqtt.add_subparsers(dest="what", required=True, metavar="WHAT")
    setup = whats.add_parser(
        "setup", help="write users, rights, encryption and a configuration for Mosquitto; what is there stays"
    )
    _config(setup)
    setup.add_argument(
        "--dir", type=Path, metavar="DIR",
        help="where (default: /etc/unshrug/broker for root, else ~/.config/unshrug/broker)",
    )  # fmt: skip
    setup.add_argument(
        "--wearer", action="append", default=[], metavar="ID", help="who wears; again for each (default: the settings')"
    )
    setup.add_argument(
        "--host", action="append", default=[], metavar="NAME",
        help="a name or address that the broker is reached by; again for each (default: this machine's)",
    )  # fmt: skip
    setup.add_argument(
        "--bind", metavar="ADDRESS", help="listen on this address of the network only, or all (default: as before)"
    )
    setup.add_argument(
        "--websocket", type=lambda text: 0 if text == "off" else _tcp_port(text), metavar="PORT",
        help="encrypted WebSockets too, for pages, or off (default: as before)",
    )  # fmt: skip
    setup.add_argument("--renew", action="store_true", help="make a new certificate for the broker")
    forget = whats.add_parser("forget", help="take the wearer away from Home Assistant and off the broker")
    _config(forget)


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE",
        help="settings (default: ~/.config/unshrug/unshrug.toml, else /etc/unshrug/unshrug.toml, else the defaults)",
    )  # fmt: skip


def _settings(parser: argparse.ArgumentParser) -> None:
    _config(parser)
    parser.add_argument("--port", metavar="PORT", help="auto, usb:VID:PID[:SERIAL], a device or a pyserial URL")
    parser.add_argument("--board", metavar="NAME", help="which board; see `unshrug boards`")


def _about(parser: argparse.ArgumentParser) -> None:
    """What a recording may not say of itself."""
    about = parser.add_argument_group("the recording")
    about.add_argument("--rate", type=_positive, metavar="HZ", help="sampling rate")
    about.add_argument("--units", type=_unit, choices=_UNITS)
    about.add_argument("--board", metavar="NAME", help="board that the counts are from; see `unshrug boards`")
    about.add_argument("--uv-per-count", type=_positive, metavar="X", help="size of one count at the electrodes in µV")
    about.add_argument("--adc-bits", type=int, choices=range(8, 25), metavar="N", help="ADC resolution: finds clipping")
    about.add_argument("--channels", type=_names, default=(), metavar="A,B", help="columns to use (default: all)")


def _recording(parser: argparse.ArgumentParser) -> None:
    """What a recording may not say of itself, and what its levels are."""
    _about(parser)
    parser.add_argument("--mains", choices=("auto", "off", "50", "60"), help="mains hum to remove (auto)")
    levels = parser.add_argument_group("the wearer's levels (default: rest is the quietest stretch, no reference)")
    rest = levels.add_mutually_exclusive_group()
    rest.add_argument("--rest", type=_stretch, metavar="START-END", help="seconds in which the muscle rests")
    rest.add_argument("--rest-uv", type=_positive, metavar="X", help="level at rest in µV")
    reference = levels.add_mutually_exclusive_group()
    reference.add_argument(
        "--reference", type=_stretch, metavar="START-END", action="append", default=[],
        help="seconds of reference contraction; give it again for each repeat",
    )  # fmt: skip
    reference.add_argument("--reference-uv", type=_positive, metavar="X", help="level of the reference contraction")
    parser.add_argument("--settings", type=Path, metavar="FILE", dest="config", help="settings to analyze with")


class _Version(argparse.Action):
    """Look the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from services import __version__

        print(f"unshrug {__version__}")
        parser.exit()


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    if not 1e-9 <= value <= 1e9:  # beyond, squares are no longer numbers
        raise argparse.ArgumentTypeError(f"{text}: expected 1e-9 to 1e9")
    return value


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from 0 on")
    return int(text)


def _speed(text: str) -> float:
    value = _positive(text)
    if value < 0.1:  # slower, and the board counts as silent between two samples
        raise argparse.ArgumentTypeError(f"{text}: expected 0.1 or more")
    return value


def _whole(text: str, what: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text}: expected {what}, 1 to {most}")
    return int(text)


def _wearers(text: str) -> int:
    return _whole(text, "a whole number of wearers", 5000)


def _fleet_seconds(text: str) -> float:
    value = _positive(text)
    if value > 3600:
        raise argparse.ArgumentTypeError(f"{text}: expected 3600 s or less")
    return value


def _tension_hz(text: str) -> float:
    value = _positive(text)
    if not 0.1 <= value <= 20:
        raise argparse.ArgumentTypeError(f"{text}: expected 0.1 to 20 Hz")
    return value


def _breathing_min(text: str) -> float:
    value = _positive(text)
    if not 1 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 to 10 minutes")
    return value


def _days(text: str) -> int:
    return _whole(text, "a whole number of days", 36500)


def _yes(text: str) -> bool:
    if text.lower() not in ("yes", "y", "no", "n"):
        raise argparse.ArgumentTypeError(f"{text}: expected yes or no")
    return text.lower().startswith("y")


def _names_list(text: str) -> list[str]:
    return list(_names(text))


def _tcp_port(text: str) -> int:
    return _whole(text, "a TCP port", 65535)


def _this_machine(text: str) -> str:
    """Take loopback only: a fleet is a load that no one else's broker should get."""
    from services.settings import is_local

    if text != "auto" and is_local(text):
        return text
    raise argparse.ArgumentTypeError(f"{text}: expected this machine (127.0.0.1, ::1 or localhost)")


def _stretch(text: str) -> tuple[float, float]:
    start, dash, end = text.partition("-")
    try:
        values = float(start), float(end)
    except ValueError:
        values = 0.0, 0.0
    if not (dash and 0 <= values[0] < values[1] < math.inf):
        raise argparse.ArgumentTypeError(f"{text}: expected START-END in seconds, such as 0-10")
    return values


def _unit(text: str) -> str:
    return {unit.lower(): unit for unit in _UNITS}.get(text.lower().replace("µ", "u"), text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
