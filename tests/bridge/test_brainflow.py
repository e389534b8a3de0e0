"""BrainFlow's boards as ports, shown on the one that BrainFlow makes up."""

import numpy as np
import pytest
from hypothesis import given

from firmware_bridge.brainflow_stream import BrainflowError, RowsDecoder, board_of
from firmware_bridge.bridge import Bridge
from firmware_bridge.port import Port
from tests.bridge.helpers import cuts, fed, pieces_of, read_until, samples_in, steady

SYNTHETIC = "brainflow:SYNTHETIC_BOARD"


@given(at=cuts)
@steady
def test_rows_come_back_however_they_are_cut(at: list[int]) -> None:
    rows = np.random.default_rng(1).normal(size=(40, 4))
    packets = samples_in(fed(RowsDecoder(4), pieces_of(rows.tobytes(), at)))
    assert np.concatenate([packet.codes for packet in packets]).tobytes() == rows.tobytes()


def test_board_that_brainflow_makes_up_streams_through_a_port() -> None:
    pytest.importorskip("brainflow")
    board = board_of(SYNTHETIC)
    assert (board.rate_hz, board.uv_per_count) == (250.0, None)
    port, bridge = Port(SYNTHETIC, board.baud), Bridge(board, ("left", "-", "right"))
    try:
        bridge.connected(0.0)
        data = read_until(port, lambda came: len(came) > 100 * 16 * 8, seconds=20)
        blocks = bridge.feed(data, 1.0)
    finally:
        port.close()
    assert port.problem is None
    assert blocks[0].signal.channels == ("left", "right")
    assert 100 < len(blocks[0].values) < 1000
    assert np.isfinite(blocks[0].values).all()
    assert blocks[0].values.std(axis=0).min() > 0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("brainflow:NO_SUCH_BOARD", "unknown board; expected a name of BrainFlow's BoardIds"),
        ("brainflow:GANGLION_BOARD?port=x", "unknown parameter 'port'; expected one of serial_port, mac_address"),
        ("brainflow:SYNTHETIC_BOARD?timeout=abc", "timeout is 'abc'; expected a whole number"),
        ("brainflow:SYNTHETIC_BOARD?to_json=1", "unknown parameter 'to_json'"),
        ("brainflow:PLAYBACK_FILE_BOARD", "no fixed inputs"),
    ],
)
def test_port_that_brainflow_would_choke_on_is_said(url: str, words: str) -> None:
    pytest.importorskip("brainflow")
    with pytest.raises(BrainflowError, match=words):
        board_of(url)


def test_board_that_does_not_answer_is_a_problem_of_the_port() -> None:
    pytest.importorskip("brainflow")
    port = Port("brainflow:GANGLION_BOARD", 115200)
    assert port.read() == b""
    assert "is the board on" in (port.problem or "")
    port.close()
