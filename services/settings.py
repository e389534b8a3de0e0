"""Settings: what the owner may change, read strictly from TOML. Every default lives here or in `dsp`, once."""

import hashlib
import ipaddress
import re
import tomllib
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, replace
from datetime import date, datetime, time
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from dsp.chain import ChainSettings
from dsp.detect import ShrugSettings
from dsp.exposure import ExposureSettings
from dsp.filters import FilterSettings
from dsp.heartbeat import HeartbeatSettings
from dsp.level import LevelSettings
from dsp.low_rest import LowRestSettings
from dsp.parameters import parameter
from dsp.quality import QualitySettings
from firmware_bridge.boards import BOARDS
from firmware_bridge.bridge import UNUSED
from services.messages import MOTOR_LAG_S, seconds_of

_UNIT_WORDS = {"s": "seconds", "min": "minutes", "Hz": "hertz", "%": "per cent"}


class SettingsError(Exception):
    """Settings that cannot be used; the message names file, key, what was wrong and what was expected."""


@dataclass(frozen=True, slots=True)
class WearerSettings:
    """Who wears it."""

    id: str = parameter(
        "wearer1", "Short name in every topic: a-z, 0-9, _ and -, up to 32 of them. Better not a person's name."
    )


@dataclass(frozen=True, slots=True)
class BoardSettings:
    """The sensor board."""

    kind: str = parameter("unshrug", "Which board; `unshrug boards` tells more.", choices=tuple(BOARDS))
    port: str = parameter("auto", "Its port: auto, usb:VID:PID[:SERIAL], a device such as /dev/ttyACM0, or a URL.")
    baud: int = parameter(0, "Speed of the serial line; 0 is what the board uses.", unit="baud", low=0, high=4_000_000)
    rate_hz: float = parameter(
        0.0,
        "Sampling rate; 0 where the board tells it. A sketch that prints lines does not.",
        unit="Hz",
        low=0,
        high=20000,
    )
    uv_per_count: float = parameter(
        0.0, "Size of one ADC step at the electrodes; 0 is what the board has.", unit="µV", low=0, high=1000
    )
    adc_bits: int = parameter(0, "Resolution of the ADC; 0 is what the board has.", unit="bits", low=0, high=24)
    channels: tuple[str, ...] = parameter(
        (), 'Names of the inputs in their order, such as ["left", "right"]; "-" is one that is not used.'
    )


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """What the wearer's levels are. One number per channel, or one for all."""

    rest_uv: tuple[float, ...] = parameter(
        (), "Level at rest; empty measures it in the first seconds after the start.", unit="µV", low=0.01, high=1000
    )
    reference_uv: tuple[float, ...] = parameter(
        (), "Level of the reference contraction (RVE); empty goes by the rest level alone.", unit="µV", low=1, high=5000
    )
    noise_uv: tuple[float, ...] = parameter(
        (), "Noise of sensor and ADC; empty takes that of the ADC's steps.", unit="µV", low=0, high=1000
    )
    rest_s: float = parameter(10.0, "How long the rest is measured after the start.", unit="s", low=5, high=120)


@dataclass(frozen=True, slots=True)
class GuideSettings:
    """How a calibration and an exercise are guided."""

    rest_s: float = parameter(60.0, "Rest at the start of a calibration.", unit="s", low=20, high=300)
    quick_rest_s: float = parameter(20.0, "The same for a quick check.", unit="s", low=10, high=300)
    raise_s: float = parameter(3.0, "Time to raise the arms.", unit="s", low=1, high=10)
    hold_s: float = parameter(15.0, "Length of a gentle hold ...", unit="s", low=10, high=20)
    hold_skip_s: float = parameter(5.0, "... of which the beginning does not count.", unit="s", low=3, high=8)
    repeats: int = parameter(3, "Holds, and one more where they differ (Jackson 2009).", low=2, high=4)
    pause_s: float = parameter(60.0, "Rest between two holds.", unit="s", low=20, high=300)
    least_valid_pct: float = parameter(60.0, "Share of a hold that must be valid.", unit="%", low=30, high=100)
    least_contrast: float = parameter(
        2.0, "A hold is at least this many times the rest.", unit="x rest", low=1.5, high=5
    )
    quick_band_pct: float = parameter(
        25.0, "A quick check may differ by this from what is kept.", unit="%", low=5, high=50
    )
    most_pain: int = parameter(4, "From this much pain on there is no calibration.", unit="of 10", low=1, high=10)
    pain_rise: int = parameter(2, "A rise of pain by this much stops it.", unit="of 10", low=1, high=5)
    silence_s: float = parameter(
        30.0, "It ends when there was no usable signal for this long.", unit="s", low=5, high=120
    )
    patience_s: float = parameter(600.0, "It ends when nobody goes on for this long.", unit="s", low=60, high=3600)
    still_s: float = parameter(10.0, "Sitting still before and after an exercise.", unit="s", low=5, high=60)
    breathing_min: float = parameter(3.0, "Length of paced breathing.", unit="min", low=1, high=10)


@dataclass(frozen=True, slots=True)
class EpisodeSettings:
    """How shrugs become the episodes that dashboards and reports count."""

    merge_s: float = parameter(60.0, "Shrugs no further apart than this are one episode.", unit="s", low=1, high=600)
    update_s: float = parameter(10.0, "An open episode is published at most this often.", unit="s", low=1, high=600)


@dataclass(frozen=True, slots=True)
class CueSettings:
    """When the motor may say something."""

    enabled: bool = parameter(True, "Whether there are cues at all.", live=True)
    grace_s: float = parameter(5.0, "Time to relax by oneself before a cue.", unit="s", low=0, high=60, live=True)
    refractory_s: float = parameter(60.0, "No further cue for this long.", unit="s", low=10, high=3600, live=True)
    escalate_s: float = parameter(
        20.0, "Still tense this long after a cue: one stronger cue.", unit="s", low=5, high=300
    )
    per_hour: int = parameter(6, "Most cues in an hour.", unit="cues", low=0, high=30, live=True)
    per_day: int = parameter(30, "Most cues in 24 hours.", unit="cues", low=0, high=200, live=True)
    low_rest_again_s: float = parameter(
        1200.0, "While low rest lasts, it is cued again after this long.", unit="s", low=300, high=14400, live=True
    )
    quiet_hours: str = parameter(
        "", "No cues between these local times, such as 22:00-07:00; what is worn then is a night. Empty for never.",
        live=True,
    )  # fmt: skip
    blank_s: float = parameter(
        0.5, "EMG is not used while the motor runs and for this long after.", unit="s", low=0, high=5
    )


@dataclass(frozen=True, slots=True)
class MotorSettings:
    """The motor and its pin. Never on the neck: wrist, upper arm or belt."""

    kind: str = parameter(
        "vibration", "vibration is driven by PWM, buzzer is only on or off.", choices=("vibration", "buzzer")
    )
    pin: int = parameter(18, "GPIO number (BCM) of the motor's transistor.", low=0, high=27)
    drive_pct: float = parameter(60.0, "Strength of a vibration motor.", unit="%", low=5, high=100, live=True)
    pwm_hz: float = parameter(200.0, "PWM frequency of a vibration motor.", unit="Hz", low=50, high=2000)


@dataclass(frozen=True, slots=True)
class ButtonSettings:
    """The wearer's button, between a pin and ground: press, long press, double press."""

    pin: int = parameter(-1, "GPIO number (BCM) of the button; -1 for none.", low=-1, high=27)
    long_s: float = parameter(1.0, "Pressed for this long, it says that it was too much.", unit="s", low=0.5, high=5)
    double_s: float = parameter(
        0.5, "Pressed again within this time, it says that a headache began.", unit="s", low=0.2, high=2
    )
    snooze_min: int = parameter(15, "How long a press snoozes.", unit="min", low=1, high=720)
    again_min: int = parameter(
        60, "How long it snoozes when it is pressed again meanwhile.", unit="min", low=1, high=720
    )


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """Where tension and episodes are published."""

    enabled: bool = parameter(True, "Whether to publish at all.")
    broker: str = parameter(
        "auto", "Host of the broker; auto takes one on this machine, else starts Mosquitto for itself."
    )
    port: int = parameter(1883, "TCP port of the broker.", low=1, high=65535)
    tls: str = parameter("auto", "Encryption: auto is on but for this machine.", choices=("auto", "on", "off"))
    ca_file: str = parameter("", "Certificate of the broker's authority; empty uses the system's.")
    username: str = parameter("", "User name at the broker; empty for none.")
    password_file: str = parameter("", "File that holds the password and that only its owner may read.")
    tension_hz: float = parameter(
        4.0, "How often the live level is published; never more often than level.hop_s.", unit="Hz", low=0.1, high=100,
        live=True,
    )  # fmt: skip
    discovery: bool = parameter(True, "Whether to announce the wearer's entities to Home Assistant.")


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What a therapist has planned."""

    file: str = parameter("", "The plan, seen from this file's folder; empty for none. `unshrug plan new` writes one.")


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """What is kept on this machine: episodes, cues, diary and days, until they are delivered and after."""

    folder: str = parameter("", "Where; empty is the service's state folder, else ~/.local/share/unshrug.")
    most_mib: int = parameter(
        64, "Most that it may grow to; then what matters least goes first.", unit="MiB", low=1, high=65536
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set."""

    wearer: WearerSettings = field(default_factory=WearerSettings)
    board: BoardSettings = field(default_factory=BoardSettings)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
    level: LevelSettings = field(default_factory=LevelSettings)
    heartbeat: HeartbeatSettings = field(default_factory=HeartbeatSettings)
    shrug: ShrugSettings = field(default_factory=ShrugSettings)
    low_rest: LowRestSettings = field(default_factory=LowRestSettings)
    quality: QualitySettings = field(default_factory=QualitySettings)
    exposure: ExposureSettings = field(default_factory=ExposureSettings)
    guide: GuideSettings = field(default_factory=GuideSettings)
    episode: EpisodeSettings = field(default_factory=EpisodeSettings)
    cue: CueSettings = field(default_factory=CueSettings)
    motor: MotorSettings = field(default_factory=MotorSettings)
    button: ButtonSettings = field(default_factory=ButtonSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)
    mqtt: MqttSettings = field(default_factory=MqttSettings)
    store: StoreSettings = field(default_factory=StoreSettings)

    def chain(self) -> ChainSettings:
        """Return the numbers of the signal chain."""
        return ChainSettings(
            self.filter, self.level, self.heartbeat, self.shrug, self.low_rest, self.quality, self.exposure
        )

    def live(self) -> dict[str, Any]:
        """Return what may be changed while the program runs, by key."""
        return {
            f"{section.name}.{f.name}": getattr(part, f.name)
            for section in fields(self)
            for part in [getattr(self, section.name)]
            for f in fields(part)
            if f.metadata["live"]
        }

    def digest(self) -> str:
        """Return a short checksum, so that results can be told apart by their settings."""
        return hashlib.sha256(repr(asdict(self)).encode()).hexdigest()[:12]


def load_settings(path: Path) -> Settings:
    """Read settings from a TOML file; what it leaves out keeps its default. Raises SettingsError."""
    settings: Settings = read_toml(Settings, path)
    try:
        _check(settings)
    except SettingsError as error:
        raise SettingsError(f"{path.name}: {error}") from None
    plan = settings.plan.file
    return replace(settings, plan=PlanSettings(str(path.parent / Path(plan).expanduser()))) if plan else settings


def read_toml(kind: type[Any], path: Path) -> Any:
    """Read a file into a dataclass of such parameters, strictly. Raises SettingsError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    try:
        table = tomllib.loads(text)
    except ValueError as error:  # TOML's own errors, and whole numbers of thousands of digits
        raise SettingsError(f"{path}: not TOML: {error}") from None
    try:
        return _read(kind, table, "")
    except SettingsError as error:
        raise SettingsError(f"{path.name}: {error}") from None


def changed(settings: Settings, key: str, value: Any) -> Settings:
    """Return settings with one of the live ones changed. Raises SettingsError."""
    if key not in settings.live():
        near = get_close_matches(key, settings.live(), 1, 0.5)
        guess = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(settings.live())}"
        raise SettingsError(f"{key[:80]}: cannot be changed while the program runs; {guess}")
    section, _, name = key.partition(".")
    part: Any = getattr(settings, section)
    kind = get_type_hints(type(part))[name]
    of = next(f for f in fields(part) if f.name == name)
    if kind is int and isinstance(value, float) and value.is_integer():  # JSON of others knows only one kind of number
        value = int(value)
    out: Settings = replace(settings, **{section: replace(part, **{name: _value(key, value, kind, of)})})
    _check(out)
    return out


def _read(kind: type[Any], table: dict[str, Any], where: str) -> Any:
    known = {f.name: f for f in fields(kind)}
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in table.items():
        at = f"{where}{key}"
        if key not in known:
            raise SettingsError(f"{at}: unknown {'key' if where else 'section'}{_guess(key, known)}")
        if get_origin(types[key]) is tuple and is_dataclass(get_args(types[key])[0]):
            if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
                raise SettingsError(f"{at}: expected sections [[{at}]], got {value!r}")
            inner = get_args(types[key])[0]
            values[key] = tuple(_read(inner, item, f"{at} {k}, ") for k, item in enumerate(value, 1))
        elif is_dataclass(types[key]):
            if not isinstance(value, dict):
                raise SettingsError(f"{at}: expected a section [{at}], got {value!r}")
            values[key] = _read(types[key], value, f"{at}.")
        else:
            values[key] = _value(at, value, types[key], known[key])
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise SettingsError(f"{where}{missing[0]}: expected it to be given")
    return kind(**values)


def _guess(key: str, known: dict[str, Field[Any]]) -> str:
    """Say which key was meant, by its spelling or by its name before the unit."""
    stem = key.rpartition("_")[0]
    same = [name for name in known if stem and name.rpartition("_")[0] == stem]
    near = get_close_matches(key, same, 1, 0.0) or get_close_matches(key, known, 1, 0.5)
    if not near:
        return f"; expected one of {', '.join(known)}"
    unit = known[near[0]].metadata.get("unit", "")
    return f"; did you mean {near[0]}{f' (in {_UNIT_WORDS.get(unit, unit)})' if unit else ''}?"


def _value(at: str, value: Any, kind: Any, of: Field[Any]) -> Any:
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        items = value if isinstance(value, list) else [value]
        return tuple(_value(at, item, inner, of) for item in items)
    unit, low, high, choices = (of.metadata.get(k) for k in ("unit", "low", "high", "choices"))
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or isinstance(value, datetime):
        names = {
            float: "a number", int: "a whole number", bool: "true or false", str: "a text in quotes",
            date: "a date such as 2026-01-31",
        }  # fmt: skip
        amount = f" of {_UNIT_WORDS.get(unit, unit)}" if unit and kind in (float, int) else ""
        raise SettingsError(f"{at}: expected {names[kind]}{amount}, got {value!r}")
    if choices and value not in choices:
        raise SettingsError(f"{at}: expected {' or '.join(map(_toml, choices))}, got {value!r}")
    if low is not None and high is not None and not low <= value <= high:
        raise SettingsError(
            f"{at}: expected {_number(low)} to {_number(high)}{f' {unit}' if unit else ''}, got {_number(value)}"
        )
    return value


def _check(settings: Settings) -> None:
    """Refuse what is wrong only in combination."""
    wearer = settings.wearer.id
    if not is_wearer(wearer):
        raise SettingsError(f"wearer.id: expected 1 to 32 of a-z, 0-9, _ and -, got {wearer!r}")
    if settings.button.pin == settings.motor.pin:
        raise SettingsError(f"button.pin: GPIO{settings.button.pin} is the motor's; expected another one")
    _check_mqtt(settings.mqtt)
    quiet_hours(settings.cue.quiet_hours)
    if settings.shrug.merge_piece_s > settings.shrug.min_s:
        raise SettingsError("shrug.merge_piece_s: expected no more than shrug.min_s")
    if settings.shrug.held_s < settings.shrug.min_s:
        raise SettingsError("shrug.held_s: expected no less than shrug.min_s")
    if settings.shrug.cap_s <= settings.shrug.held_s + settings.cue.grace_s:
        raise SettingsError("shrug.cap_s: expected more than shrug.held_s + cue.grace_s, else there is never a cue")
    if settings.shrug.off_rest_ratio >= min(settings.shrug.on_rest_ratio, settings.shrug.on_rest_ratio_alone):
        raise SettingsError("shrug.off_rest_ratio: expected less than shrug.on_rest_ratio and on_rest_ratio_alone")
    hidden_s = seconds_of("escalation") + MOTOR_LAG_S + settings.cue.blank_s + settings.level.window_s
    if hidden_s > settings.shrug.unseen_s:
        raise SettingsError(f"cue.blank_s: a cue would hide the EMG for {hidden_s:.3g} s, longer than shrug.unseen_s")
    if settings.low_rest.clear_pct < settings.low_rest.low_pct:
        raise SettingsError("low_rest.clear_pct: expected no less than low_rest.low_pct")
    for name in ("eva_levels_rve", "eva_durations_s"):
        edges = getattr(settings.exposure, name)
        if not edges or edges[0] != 0 or list(edges) != sorted(set(edges)):
            raise SettingsError(f"exposure.{name}: expected rising numbers that begin with 0, got {list(edges)}")
    if settings.calibration.reference_uv and not settings.calibration.rest_uv:
        raise SettingsError("calibration.reference_uv: expected rest_uv beside it")
    names = [name for name in settings.board.channels if name != UNUSED]
    _check_names(names)
    _check_levels(settings.calibration, len(names))


def quiet_hours(text: str) -> tuple[time, time] | None:
    """Return from when to when there are no cues, None for never. Raises SettingsError."""
    if not text:
        return None
    found = re.fullmatch("(([01][0-9]|2[0-3]):[0-5][0-9])-(([01][0-9]|2[0-3]):[0-5][0-9])", text)
    if found is None or found[1] == found[3]:
        raise SettingsError(f'cue.quiet_hours: expected two times such as "22:00-07:00", or nothing, got {text!r}')
    return time.fromisoformat(found[1]), time.fromisoformat(found[3])


def _check_mqtt(mqtt: MqttSettings) -> None:
    try:
        mqtt.broker.encode("idna")
        named = bool(mqtt.broker)
    except UnicodeError:
        named = False
    if not named:
        raise SettingsError(f"mqtt.broker: expected a host name or auto, got {mqtt.broker!r}")
    if mqtt.tls == "off" and mqtt.username and not is_local(mqtt.broker):
        raise SettingsError('mqtt.tls: off would send the password readable over the network; expected "on" or "auto"')


def is_wearer(name: str) -> bool:
    """Whether a wearer may be called so: it is a level of every topic, a user name and a file name."""
    return 1 <= len(name) <= 32 and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")


def is_local(host: str) -> bool:
    """Whether what is sent to a host stays on this machine."""
    if host in ("auto", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may lead anywhere, even one that begins with 127.
        return False


def _check_names(names: list[str]) -> None:
    if len(set(names)) < len(names) or not all(name.strip() and name.isprintable() for name in names):
        raise SettingsError(f"board.channels: expected names that people can tell apart, got {names}")


def _check_levels(levels: CalibrationSettings, channels: int) -> None:
    """Refuse levels that do not fit each other or the channels that are named."""
    for name in ("rest_uv", "reference_uv", "noise_uv"):
        n = len(getattr(levels, name))
        if channels and n not in (0, 1, channels):
            raise SettingsError(f"calibration.{name}: {n} levels for {channels} channels; expected 1 or {channels}")
    if any(reference <= rest for reference, rest in _pairs(levels.reference_uv, levels.rest_uv)):
        raise SettingsError("calibration.reference_uv: expected more than rest_uv")
    if any(noise > rest for noise, rest in _pairs(levels.noise_uv, levels.rest_uv)):
        raise SettingsError("calibration.noise_uv: expected no more than rest_uv")


def _pairs(some: tuple[float, ...], others: tuple[float, ...]) -> list[tuple[float, float]]:
    """Pair levels channel by channel; one level stands for all."""
    n = max(len(some), len(others))
    return list(zip(some * (n if len(some) == 1 else 1), others * (n if len(others) == 1 else 1), strict=False))


def default_toml() -> str:
    """Return a settings file that states every default with its unit, its range and its meaning."""
    out = [
        "# Unshrug's settings. Every line here is a default: change what you need, delete what you like.",
        '# Those marked "Live" can be changed over MQTT while the service runs.',
        "",
    ]
    for section in fields(Settings):
        part = getattr(Settings(), section.name)
        out += [f"[{section.name}]", f"# {type(part).__doc__}"]
        for f in fields(part):
            out += _describe(f), f"{f.name} = {_toml(getattr(part, f.name))}"
        out.append("")
    return "\n".join(out)


def _describe(f: Field[Any]) -> str:
    unit, low, high, choices, live = (f.metadata[k] for k in ("unit", "low", "high", "choices", "live"))
    facts = []
    if choices:
        facts.append(" or ".join(map(_toml, choices)))
    if low is not None:
        facts.append(f"{_number(low)} to {_number(high)}")
    if unit:
        facts.append(unit)
    words = f" ({' '.join(facts)})" if facts else ""
    return f"# {f.metadata['meaning']}{words}{' Live.' if live else ''}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return _number(value)


def _number(value: float) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)[:40]
