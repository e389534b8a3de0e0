"""Boards that only the BrainFlow library speaks to, such as OpenBCI's Ganglion over Bluetooth: an optional extra.

A port such as `brainflow:GANGLION_NATIVE_BOARD?mac_address=00:11:22:33:44:55` names one of BrainFlow's boards and the
parameters that it needs. What BrainFlow returns is passed on as rows of µV, eight bytes a channel.
"""

import time
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from firmware_bridge.boards import Board
from firmware_bridge.packets import Packet, Samples

PREFIX = "brainflow:"
_WAIT_S = 0.05
_POLL_S = 0.01
_BUFFER = 45_000  # samples that BrainFlow keeps for us
_TIMEOUT_S = 5


class BrainflowError(Exception):
    """A BrainFlow board that cannot be used; the message says why and what was expected."""


class RowsDecoder:
    """Rows of float64, one value a channel, as `BrainflowStream` sends them."""

    def __init__(self, channels: int) -> None:
        self._row = 8 * channels
        self._rest = b""

    def feed(self, data: bytes) -> list[Packet]:
        """Take any number of bytes; return the packets that they complete."""
        data = self._rest + data
        whole = len(data) - len(data) % self._row
        self._rest = data[whole:]
        return [Samples(np.frombuffer(data[:whole]).reshape(-1, self._row // 8))] if whole else []

    def end(self) -> list[Packet]:
        """Take note that nothing more will come; a row that has begun is none."""
        return []


def board_of(url: str) -> Board:
    """Describe the board of such a port: its rate and channels are BrainFlow's, and its values are µV already.

    Raises BrainflowError for a board that BrainFlow does not know, or without BrainFlow.
    """
    library, number, _ = _parsed(url)
    try:
        channels = len(library.BoardShim.get_exg_channels(number))
        rate_hz = float(library.BoardShim.get_sampling_rate(number))
    except library.BrainFlowError:
        raise BrainflowError(f"{url}: this board has no fixed inputs; expected one that measures EXG") from None
    return Board(
        name="brainflow",
        title=f"{url.removeprefix(PREFIX).partition('?')[0]} through BrainFlow",
        decoder=lambda _: RowsDecoder(channels),
        rate_hz=rate_hz,
        has_spare=True,
        note="clipping and lost samples are not known",
    )


def _parsed(url: str) -> tuple[ModuleType, int, Any]:
    try:
        from brainflow import board_shim
    except ImportError:
        raise BrainflowError(
            f"{url}: needs BrainFlow, which is there for x86-64: pip install 'unshrug[brainflow]'"
        ) from None
    name, _, query = url.removeprefix(PREFIX).partition("?")
    if name not in board_shim.BoardIds.__members__:
        raise BrainflowError(f"{url}: unknown board; expected a name of BrainFlow's BoardIds such as GANGLION_BOARD")
    parameters = board_shim.BrainFlowInputParams()
    parameters.timeout = _TIMEOUT_S
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in vars(parameters):
            raise BrainflowError(f"{url}: unknown parameter {key!r}; expected one of {', '.join(vars(parameters))}")
        try:
            setattr(parameters, key, type(getattr(parameters, key))(value))
        except ValueError:
            raise BrainflowError(f"{url}: {key} is {value!r}; expected a whole number") from None
    return board_shim, board_shim.BoardIds[name].value, parameters


class BrainflowStream:
    """A board of BrainFlow's with the methods of a serial port; what goes wrong is an OSError, as there."""

    def __init__(self, url: str) -> None:
        library, number, parameters = _parsed(url)
        self._error = library.BrainFlowError
        library.BoardShim.disable_board_logger()
        self._board = library.BoardShim(number, parameters)
        try:
            self._channels = library.BoardShim.get_exg_channels(number)
            self._board.prepare_session()
            self._board.start_stream(_BUFFER)
        except self._error as error:
            self.close()
            raise BrainflowError(f"{url}: {error}; is the board on, and are its parameters right?") from None

    in_waiting = 0

    def read(self, _: int) -> bytes:
        """Return all rows that came, b"" when none did for a while."""
        until = time.monotonic() + _WAIT_S
        try:
            while not self._board.get_board_data_count() and time.monotonic() < until:
                time.sleep(_POLL_S)
            rows = self._board.get_board_data()[self._channels].T
        except self._error as error:
            raise OSError(str(error)) from None
        return np.ascontiguousarray(rows, np.float64).tobytes()

    def write(self, data: bytes) -> int:
        """Send nothing: BrainFlow starts and stops the board."""
        return len(data)

    def close(self) -> None:
        """Stop the board and let go of it."""
        for step in (self._board.stop_stream, self._board.release_session):
            try:
                step()
            except self._error as error:
                if step == self._board.release_session and self._board.is_prepared():
                    raise OSError(str(error)) from None
