"""What requests from outside do: to the wearer's cues, settings and guides."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from services.calibrating import CalibrationGuide
from services.coach import PROMPTS, Terms
from services.exercises import EXERCISES, ExerciseGuide, breathing
from services.haptics import Haptics
from services.messages import AskStore, Message, Reply, Request
from services.pipeline import Guidance, Guide, Ids, Pipeline
from services.settings import Settings, SettingsError, changed

_MINUTE_S = 60.0
_TEST_AGAIN_S = 10.0

# What the wearer may withdraw because it makes something worse.
WITHDRAWABLE = ("calibration", "escalation", *PROMPTS, *EXERCISES)


class Steering:
    """Do what is asked, and answer each request once. All of it happens in the loop, between two reads.

    `given` are the settings as the file has them, `live` what was changed since, `withdrawn` what the wearer wants no
    more; `keep` keeps all that for the next start. `wall` returns seconds since 1970.
    """

    def __init__(
        self,
        given: Settings,
        live: dict[str, Any],
        withdrawn: Iterable[str],
        pipeline: Pipeline,
        haptics: Haptics,
        answer: Callable[[Reply | AskStore], None],
        keep: Callable[[str, Any], None],
        wall: Callable[[], float],
    ) -> None:
        self._given, self._live, self._withdrawn = given, dict(live), frozenset(withdrawn)
        self._terms = Terms(withdrawn=self._withdrawn)
        self._pipeline, self._haptics = pipeline, haptics
        self._answer, self._keep, self._wall = answer, keep, wall
        self._new_id = Ids()
        self._tested_s: float | None = None

    def obey(self, request: Request, at_s: float) -> Iterator[Message]:
        """Do what is asked at a time on the board's clock; yield what follows from it."""
        match request.verb:
            case "snooze":
                self._haptics.off()
                yield from self._snooze(_MINUTE_S * request.body["minutes"], at_s)
                self._answer(Reply(request))
            case "resume":
                yield from self._resume(request, at_s)
            case "cue-test":
                yield from self._test(request, at_s)
            case "set":
                yield from self._set(request)
            case "feedback":
                yield from self._label(request)
            case "withdraw" | "allow":
                yield from self._withdraw(request, at_s)
            case "calibrate" | "exercise":
                yield from self._guide(request, at_s)
            case _:
                self._answer(AskStore(request))

    def follow(self, terms: Terms, at_s: float) -> Iterator[Message]:
        """Go by what the plan and the records say now."""
        self._terms = replace(terms, withdrawn=self._withdrawn | terms.withdrawn)
        yield from self._pipeline.follow(self._terms, at_s)
        yield from self._pipeline.apply(self._settings())

    def _settings(self) -> Settings:
        return with_target(with_live(self._given, self._live), self._terms.rest_target_pct)

    def _snooze(self, seconds: float, at_s: float) -> Iterator[Message]:
        self._keep("snoozed_until", self._wall() + seconds)
        yield from self._pipeline.snooze(at_s + seconds, at_s)

    def _resume(self, request: Request, at_s: float) -> Iterator[Message]:
        terms = self._terms
        if terms.hold is not None and terms.hold_lasts:
            self._answer(Reply(request, f"{terms.hold}; expected it to be over first"))
            return
        self._keep("snoozed_until", None)
        if terms.hold is not None:
            self._keep("resumed", self._wall())
            yield from self.follow(replace(terms, hold=None), at_s)
        yield from self._pipeline.snooze(None, at_s)
        self._answer(Reply(request))

    def _test(self, request: Request, at_s: float) -> Iterator[Message]:
        wrong = self._pipeline.problem
        if wrong is None and self._tested_s is not None and at_s - self._tested_s < _TEST_AGAIN_S:
            wrong = f"one test in {_TEST_AGAIN_S:g} s is enough"
        if wrong is None:
            self._tested_s = at_s
            yield from self._pipeline.test_cue(at_s)
        self._answer(Reply(request, wrong))

    def _set(self, request: Request) -> Iterator[Message]:
        key, value = request.body["key"], request.body["value"]
        live = {k: v for k, v in self._live.items() if k != key} | ({} if value is None else {key: value})
        try:
            if value is None:
                changed(self._given, key, self._given.live().get(key))  # refuses what cannot be changed
            settings = with_live(self._given, live)
        except SettingsError as error:
            self._answer(Reply(request, str(error)))
            return
        self._live = live
        self._haptics.drive(settings.motor)
        yield from self._pipeline.apply(self._settings())
        self._keep("live", live)
        self._answer(Reply(request, None, {"key": key, "value": settings.live()[key]}))

    def _label(self, request: Request) -> Iterator[Message]:
        episode = None
        for episode in self._pipeline.label(request.body.get("episode_id"), request.body["label"]):
            yield episode
            self._answer(Reply(request, None, {"episode_id": episode.id}))
        if episode is None:  # it is over: whoever has the store knows it
            self._answer(AskStore(request))

    def _withdraw(self, request: Request, at_s: float) -> Iterator[Message]:
        what = request.body["what"]
        self._withdrawn = self._withdrawn | {what} if request.verb == "withdraw" else self._withdrawn - {what}
        self._keep("withdrawn", sorted(self._withdrawn) or None)
        if request.verb == "allow":
            self._keep(f"allowed_{what}", self._wall())
        for activity in ("calibration", "exercise"):  # what makes it worse ends at once
            guide = self._pipeline.guided(activity)
            if guide is not None and what in (activity, getattr(guide, "name", None)):
                yield from self._pipeline.tell_guided(guide.stop(at_s, "withdrawn by the wearer"))
        yield from self.follow(replace(self._terms, withdrawn=self._terms.withdrawn - {what}), at_s)
        self._answer(Reply(request, None, {"withdrawn": sorted(self._terms.withdrawn)}))

    def _guide(self, request: Request, at_s: float) -> Iterator[Message]:
        """Begin, go on with or stop a calibration or an exercise."""
        action = request.body["action"]
        if action == "start":
            wrong, make = self._maker(request)
            if wrong is None:
                self._haptics.off()
                yield from self._pipeline.guide(make)
            self._answer(Reply(request, wrong))
            return
        activity = "calibration" if request.verb == "calibrate" else "exercise"
        guide = self._pipeline.guided(activity)
        if guide is None:
            self._answer(Reply(request, f"no {activity} is under way"))
            return
        if action == "next":
            wrong, messages = guide.next(at_s, request.body.get("pain"))
        else:
            wrong, messages = None, guide.stop(at_s, "stopped by the wearer")
        yield from self._pipeline.tell_guided(messages)
        self._answer(Reply(request, wrong))

    def _maker(self, request: Request) -> tuple[str | None, Callable[[Guidance], Guide]]:
        """Return why this cannot begin, and what makes the guide."""
        body, name = request.body, request.body.get("name", "calibration")
        make = partial(self._calibration, body) if request.verb == "calibrate" else partial(self._exercise, body)
        wrong = self._pipeline.cannot_guide()
        if name in self._terms.withdrawn:
            wrong = f"{name} is withdrawn, because it made something worse; expected it to be allowed again first"
        elif wrong is None and request.verb == "calibrate":
            wrong = self._terms.no_calibration
        return wrong, make

    def _calibration(self, body: dict[str, Any], of: Guidance) -> Guide:
        settings = self._settings()
        return CalibrationGuide(
            self._new_id(0.0),
            of.signal,
            of.frame_s,
            of.band,
            settings.guide,
            settings.exposure,
            pain=body.get("pain"),
            quick=body.get("quick", False),
            against=of.calibration,
        )

    def _exercise(self, body: dict[str, Any], of: Guidance) -> Guide:
        guide, name = self._settings().guide, body["name"]
        exercise = breathing(body.get("minutes", guide.breathing_min)) if name == "breathing" else EXERCISES[name]
        return ExerciseGuide(self._new_id(0.0), exercise, of.signal.channels, of.frame_s, of.calibration, guide)


def with_live(given: Settings, live: dict[str, Any]) -> Settings:
    """Return settings with the changes that were made while the program ran. Raises SettingsError."""
    settings = given
    for key, value in live.items():
        settings = changed(settings, key, value)
    return settings


def with_target(settings: Settings, rest_pct: float | None) -> Settings:
    """Return settings in which less rest than the plan's target is low rest; None is no plan."""
    if rest_pct is None:
        return settings
    low = settings.low_rest
    clear_pct = max(rest_pct, rest_pct + low.clear_pct - low.low_pct)
    return replace(settings, low_rest=replace(low, low_pct=rest_pct, clear_pct=clear_pct))
