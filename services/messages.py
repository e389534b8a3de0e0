"""What the pipeline says: one closed set of frozen values, which every sink handles."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from dsp.chain import BandChange, Levels, Spectra
from dsp.detect import Shrug
from dsp.filters import Band
from dsp.low_rest import LowRest
from dsp.quality import Quality, State
from dsp.reference import Verdict
from firmware_bridge.bridge import Counts

Outcome = Literal["given", "withheld", "self_corrected", "suppressed"]
Trigger = Literal["shrug", "low_rest", "sensor"]
Period = Literal["day", "night"]
Pattern = Literal["cue", "escalation", "sensor", "step", "inhale", "exhale"]


class Pulse(NamedTuple):
    """The motor on, then off; `strength` is a share of the drive that the settings give."""

    on_s: float
    off_s: float = 0.0
    strength: float = 1.0


# Gentle, stronger once, never a second of vibration at a stretch. What guides an exercise is short, so that most of the
# time the EMG can be seen beside it.
PATTERNS: dict[Pattern, tuple[Pulse, ...]] = {
    "cue": (Pulse(0.150, 0.150), Pulse(0.150)),
    "escalation": (Pulse(0.200, 0.150), Pulse(0.200, 0.150), Pulse(0.200)),
    "sensor": (Pulse(0.600),),
    "step": (Pulse(0.100),),
    "inhale": (Pulse(0.150, 0.150, 0.5), Pulse(0.150, 0.150, 0.75), Pulse(0.150)),
    "exhale": (Pulse(0.150, 0.150), Pulse(0.150, 0.150, 0.75), Pulse(0.150, 0.0, 0.5)),
}
MOTOR_LAG_S = 0.2  # from a cue's due time to the motor standing still again, beyond the pattern itself


def seconds_of(pattern: Pattern) -> float:
    """Return how long a pattern lasts."""
    return sum(pulse.on_s + pulse.off_s for pulse in PATTERNS[pattern])


@dataclass(frozen=True, slots=True)
class Cue:
    """The motor spoke, or would have: `at_s` on the board's clock, for what began at `start_s`.

    `share` is that of the cues that are given, where a lot decided.
    """

    at_s: float
    outcome: Outcome
    channel: int
    start_s: float
    pattern: Pattern | None = None
    reason: str | None = None
    episode_id: str | None = None
    id: str = ""
    trigger: Trigger = "shrug"
    share: float | None = None
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class CueResult:
    """What came of a cue, given or withheld, in the 5 min after it: when the wearer had relaxed, and how much rest.

    None is not known, or did not happen.
    """

    at_s: float
    cue: Cue
    relaxed_after_s: float | None
    rest_after_pct: float | None


@dataclass(frozen=True, slots=True)
class ChannelTension:
    """The live level of one channel; None where unknown."""

    name: str
    rms_uv: float | None
    rve: float | None
    rest_10s_pct: float | None
    rest_60s_pct: float | None
    rest_session_pct: float | None


@dataclass(frozen=True, slots=True)
class Tension:
    """The live level of all channels."""

    at_s: float
    channels: tuple[ChannelTension, ...]
    quality: State
    cues_enabled: bool


@dataclass(frozen=True, slots=True)
class ChannelState:
    """Where a channel stands; without a board it is not known whether a shrug is on."""

    name: str
    shrug: bool | None
    quality: State
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WearerState:
    """All that a dashboard needs to draw itself when it connects late."""

    at_s: float
    channels: tuple[ChannelState, ...]
    board_up: bool
    board_problem: str | None
    episode_id: str | None
    cues_enabled: bool
    wear_time_s: float
    counts: Counts = field(default_factory=Counts)
    snoozed_until_s: float | None = None
    period: Period = "day"
    silent_because: str | None = None  # what keeps the motor still, in words
    ignored_cues: int = 0  # in a row
    questions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Episode:
    """A tension episode: shrugs close together, over all channels. `id` and `seq` together name one message.

    It ends `relaxed`, or `cut_off` where the signal ended first.
    """

    event: Literal["started", "updated", "ended"]
    id: str
    seq: int
    at_s: float
    start_s: float
    end_s: float | None
    kinds: tuple[str, ...]
    channels: tuple[str, ...]
    peak_uv: float
    mean_uv: float
    peak_rve: float | None
    mean_rve: float | None
    valid_fraction: float
    cued: bool
    truncated: bool
    calibration_id: str
    end_reason: Literal["relaxed", "cut_off"] | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class ChannelDay:
    """What a channel did in a day: its rest in % of the valid time, and percentiles 10, 50 and 90 of its level."""

    name: str
    valid_s: float
    rest_pct: float | None
    apdf_uv: tuple[float, float, float] | None
    apdf_rve: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True)
class DaySummary:
    """A day or a night so far, or at its end; a night has the date of its morning.

    `period`, `date` and `seq` together name one message. `free_rest_pct` is the rest but for the minutes after a cue,
    `hours` the worn and the tense seconds of each hour of the local day, its nights too; `tally` is what it is made of.
    """

    at_s: float
    period: Period
    date: str
    seq: int
    final: bool
    wear_time_s: float
    valid_time_s: float
    episodes: int
    tense_time_s: float
    channels: tuple[ChannelDay, ...]
    cues: dict[Outcome, int]
    relaxed_after_s: tuple[float, ...]  # of each cue after which the wearer did
    free_rest_pct: float | None
    hours: tuple[tuple[float, float], ...]
    tally: dict[str, Any]


@dataclass(frozen=True, slots=True)
class About:
    """What runs here, with which board and which calibration."""

    at_s: float
    board: str
    rate_hz: float
    channels: tuple[str, ...]
    band: Band
    rest_uv: tuple[float, ...] | None
    reference_uv: tuple[float, ...] | None
    calibration_source: str | None
    on_uv: tuple[float, ...]
    off_uv: tuple[float, ...]
    verdicts: tuple[Verdict, ...] = ()
    counts: Counts = field(default_factory=Counts)
    calibration_id: str | None = None
    settings: str = ""
    live: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody outside asks for; the answer goes where `reply_topic` says, with what marks it as this one's."""

    verb: str
    body: dict[str, Any]
    reply_topic: str | None = None
    correlation: bytes | None = None

    @property
    def request_id(self) -> str | None:
        """What the sender calls it."""
        return self.body.get("request_id")


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request: what was done, or why nothing was."""

    request: Request
    error: str | None = None
    result: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CueTest:
    """The wearer wants to feel the motor."""

    at_s: float
    pattern: Pattern = "cue"


@dataclass(frozen=True, slots=True)
class Guided:
    """A word to the wearer who is guided through a calibration or an exercise.

    `id` and `seq` together name one message. `step` is for programs, `say` for people; `left_s` is how long the step
    still takes, None where it waits for the wearer. `details` are what the kind of activity adds, as its schema says.
    """

    event: Literal["started", "progress", "ended"]
    activity: Literal["calibration", "exercise"]
    id: str
    seq: int
    at_s: float
    step: str
    say: str
    left_s: float | None = None
    pattern: Pattern | None = None  # what the motor plays at this moment
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AskStore:
    """A request that is about what has been stored, so that whoever has the store answers it."""

    request: Request


Message = (
    Levels
    | Spectra
    | Shrug
    | LowRest
    | Quality
    | BandChange
    | Cue
    | CueResult
    | CueTest
    | Tension
    | WearerState
    | Episode
    | DaySummary
    | Guided
    | About
)
