"""What requests from outside do: to the wearer's cues, settings and diary."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from services.haptics import Haptics
from services.messages import AskStore, Diary, Message, Reply, Request
from services.pipeline import Ids, Pipeline
from services.settings import Settings, SettingsError, changed

_MINUTE_S = 60.0
_TEST_AGAIN_S = 10.0


class Steering:
    """Do what is asked, and answer each request once. All of it happens in the loop, between two reads.

    `given` are the settings as the file has them, `live` what was changed since; `keep` keeps the changes for the
    next start.
    """

    def __init__(
        self,
        given: Settings,
        live: dict[str, Any],
        pipeline: Pipeline,
        haptics: Haptics,
        answer: Callable[[Reply | AskStore], None],
        keep: Callable[[str, Any], None],
    ) -> None:
        self._given, self._live = given, dict(live)
        self._pipeline, self._haptics = pipeline, haptics
        self._answer, self._keep = answer, keep
        self._new_id = Ids()
        self._tested_s: float | None = None

    def obey(self, request: Request, at_s: float) -> Iterator[Message]:
        """Do what is asked at a time on the board's clock; yield what follows from it."""
        body = request.body
        match request.verb:
            case "snooze":
                self._haptics.off()
                yield from self._pipeline.snooze(at_s + _MINUTE_S * body["minutes"])
                self._answer(Reply(request))
            case "resume":
                yield from self._pipeline.snooze(None)
                self._answer(Reply(request))
            case "cue-test":
                yield from self._test(request, at_s)
            case "set":
                yield from self._set(request)
            case "diary":
                yield from self._note(request, at_s)
            case "feedback":
                yield from self._label(request)
            case _:
                self._answer(AskStore(request))

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
        yield from self._pipeline.apply(settings)
        self._keep("live", live)
        self._answer(Reply(request, None, {"key": key, "value": settings.live()[key]}))

    def _note(self, request: Request, at_s: float) -> Iterator[Message]:
        entry = {key: value for key, value in request.body.items() if key != "request_id"}
        if "end" in entry and datetime.fromisoformat(entry["end"]) < datetime.fromisoformat(entry["start"]):
            self._answer(Reply(request, "end is before start"))
            return
        diary = Diary(at_s, self._new_id(at_s), entry)
        yield diary
        self._answer(Reply(request, None, {"diary_id": diary.id}))

    def _label(self, request: Request) -> Iterator[Message]:
        episode = None
        for episode in self._pipeline.label(request.body.get("episode_id"), request.body["label"]):
            yield episode
            self._answer(Reply(request, None, {"episode_id": episode.id}))
        if episode is None:  # it is over: whoever has the store knows it
            self._answer(AskStore(request))


def with_live(given: Settings, live: dict[str, Any]) -> Settings:
    """Return settings with the changes that were made while the program ran. Raises SettingsError."""
    settings = given
    for key, value in live.items():
        settings = changed(settings, key, value)
    return settings
