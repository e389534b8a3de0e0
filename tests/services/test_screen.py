"""The live view: it goes on whatever it is given to show."""

import io

import pytest
from rich.console import Console

from dsp.filters import Band
from services.messages import About, ChannelTension, Message, Tension
from services.screen import LiveScreen


def about(*names: str) -> Message:
    levels = (2.0,) * len(names)
    return About(0.0, "ascii", 1000.0, names, Band(30.0, 450.0, ()), levels, None, "settings", levels, levels)


def tension(*names: str) -> Message:
    channels = tuple(ChannelTension(name, 5.0, None, None, None, None) for name in names)
    return Tension(0.0, channels, "ok", cues_enabled=True)


@pytest.mark.parametrize(
    ("messages", "shown"),
    [
        ((about("left", "right"), tension("left", "right"), about("ch1")), "waiting for the board"),
        ((about("emg [/uV]"), tension("emg [/uV]")), "emg [/uV]"),
    ],
)
def test_the_view_survives_another_board_and_any_name(messages: tuple[Message, ...], shown: str) -> None:
    screen = LiveScreen(Console(file=io.StringIO(), force_terminal=True, width=120))
    try:
        for message in messages:
            screen.accept(message)
        console = Console(file=io.StringIO(), width=120)
        console.print(screen)
    finally:
        screen.close()
    assert isinstance(console.file, io.StringIO)
    assert shown in console.file.getvalue()
