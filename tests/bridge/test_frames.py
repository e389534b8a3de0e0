"""What holds for the decoder of every board: each stream whole, cut, damaged, and as real firmware sent it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.boards import BOARDS, Decoder
from firmware_bridge.packets import BadFrame, Packet, Samples
from tests.bridge.helpers import bytes_of, cuts, fed, memory_of, pieces_of, samples_in, singly, steady
from tests.bridge.streams import KINDS, Kind

every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
# Without a mark between frames nothing says that a line was not cut in two, or that bytes of lines are not new ones.
framed_kinds = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.board != "ascii"], ids=str)
few = settings(steady, max_examples=10)  # for each of so many kinds
# The counter of a sample, where there is one, and its codes.
Row = tuple[int | None, ...]


def rows(packets: list[Packet], turn: int = 2**16) -> list[Row]:
    """Return every sample with its count, codes as integers."""
    single = [one for packet in samples_in(packets) for one in singly(packet)]
    counts = [None if one.seq is None else one.seq % turn for one in single if isinstance(one, Samples)]
    values = [one.codes[0].astype(int).tolist() for one in single if isinstance(one, Samples)]
    return [(count, *codes) for count, codes in zip(counts, values, strict=True)]


def ended(decoder: Decoder, data: list[bytes]) -> list[Packet]:
    return [*fed(decoder, data), *decoder.end()]


def account(kind: Kind, data: list[bytes]) -> list[object]:
    """Return every sample and every damage in order."""
    out: list[object] = []
    for packet in ended(kind.decoder(), data):
        out += [packet] if isinstance(packet, BadFrame) else rows([packet], BOARDS[kind.board].counter)
    return out


def rows_of(kind: Kind, data: list[bytes]) -> list[Row]:
    return rows(ended(kind.decoder(), data), BOARDS[kind.board].counter)


@every_kind
def test_whole_stream_gives_every_sample_in_order(kind: Kind) -> None:
    packets = ended(kind.decoder(), [b"".join(kind.stream(400, seed=1))])
    codes = np.concatenate([packet.codes for packet in samples_in(packets)])
    assert codes.tolist() == kind.random(400, seed=1).tolist()
    assert not [packet for packet in packets if isinstance(packet, BadFrame)]


@every_kind
@given(first=st.integers(0, 2**16), seed=st.integers(0, 50))
@few
def test_counter_goes_on_through_its_turn(kind: Kind, first: int, seed: int) -> None:
    turn = BOARDS[kind.board].counter
    found = rows_of(kind, [b"".join(kind.stream(40, first=first, seed=seed))])
    assert len(found) == 40 * kind.per_frame
    if kind.board not in ("ascii", "spikershield", "scientisst-v2"):
        assert [row[0] for row in found[:: kind.per_frame]] == [(first + k) % turn for k in range(40)]


@every_kind
@given(at=cuts, seed=st.integers(0, 100), flips=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 7)), max_size=4))
@few
def test_cut_anywhere_same_answer(kind: Kind, at: list[int], seed: int, flips: list[tuple[int, int]]) -> None:
    data = bytearray(b"".join(kind.stream(30, seed=seed)))
    for place, bit in flips:
        data[place % len(data)] ^= 1 << bit
    assert account(kind, pieces_of(bytes(data), at)) == account(kind, [bytes(data)])


@every_kind
def test_one_byte_at_a_time_same_answer(kind: Kind) -> None:
    rng = np.random.default_rng(11)
    frames = kind.stream(40)
    data = b"".join([*frames[:20], rng.bytes(100), *damaged(frames[20:], rng)])
    assert account(kind, bytes_of(data)) == account(kind, [data])


def damaged(frames: list[bytes], rng: np.random.Generator) -> list[bytes]:
    """Lose, cut, double or push apart one frame in eight."""
    out = []
    for frame in frames:
        place = int(rng.integers(1, len(frame))) if len(frame) > 1 else 0
        choice = rng.integers(32)
        kinds = [b"", frame[:place], frame + frame, rng.bytes(int(rng.integers(1, 40))) + frame]
        out.append(kinds[choice] if choice < len(kinds) else frame)
    return out


@framed_kinds
def test_no_damage_makes_up_a_sample_or_costs_many(kind: Kind) -> None:
    rng = np.random.default_rng(7)
    came = sent = wrong = 0
    for seed in range(20):
        frames = kind.stream(200, seed=seed)
        true = Counter(rows_of(kind, frames))
        found = Counter(rows_of(kind, [b"".join([frames[0], *damaged(frames[1:], rng)])]))
        made_up = [row for row in found if row not in true]
        wrong += len(made_up)
        came += sum((found & true).values())
        sent += sum(true.values())
    # An eighth is hit; a frame between two hits may wait for neighbours in vain where the checksum is weak.
    assert came > 0.7 * sent
    # Where two frames of a SpikerShield lost bytes, what is left may look like one.
    assert wrong <= (0.15 * sent if kind.board == "spikershield" else 4 if kind.board == "bitalino" else 0)


@framed_kinds
def test_frame_that_is_lost_in_the_board_shows_in_the_counter_and_is_no_damage(kind: Kind) -> None:
    frames = kind.stream(60)
    packets = ended(kind.decoder(), frames[:20] + frames[25:])
    all_rows = rows_of(kind, frames)
    lost = slice(19 * kind.per_frame, 24 * kind.per_frame)
    del all_rows[lost]
    assert rows(packets, BOARDS[kind.board].counter) == all_rows
    assert not [packet for packet in packets if isinstance(packet, BadFrame)]


@every_kind
def test_joining_in_the_middle_is_no_damage_and_loses_what_was_cut(kind: Kind) -> None:
    data = b"".join(kind.stream(40))
    whole = rows_of(kind, [data])
    for start in range(len(kind.preamble), len(kind.preamble) + 70):
        packets = ended(kind.decoder(), [data[start:]])
        came = rows(packets, BOARDS[kind.board].counter)
        assert came == whole[len(whole) - len(came) :] or kind.board == "unshrug"
        assert len(came) >= len(whole) - (70 // kind.per_frame + 8) * kind.per_frame
        assert not [packet for packet in packets if isinstance(packet, BadFrame)]


@every_kind
@pytest.mark.parametrize("what", ["noise", "zeros", "ones", "marks"])
def test_flood_keeps_memory_bounded_and_the_board_is_found_again(kind: Kind, what: str) -> None:
    decoder = kind.decoder()
    fed(decoder, kind.stream(20))
    rng = np.random.default_rng(3)
    marks = kind.stream(1)[1][:2]
    for _ in range(40):
        flood = {"noise": rng.bytes(5000), "zeros": bytes(5000), "ones": b"\xff" * 5000, "marks": marks * 2500}[what]
        decoder.feed(flood)
        assert memory_of(decoder) < 8000
    end = b"\0\n"  # a frame or a line that has begun ends here
    after = rows(ended(decoder, [end + b"".join(kind.stream(60, seed=9)[1:])]), BOARDS[kind.board].counter)
    true = rows_of(kind, kind.stream(60, seed=9))
    assert after[-40 * kind.per_frame :] == true[-40 * kind.per_frame :]


@framed_kinds
def test_noise_gives_next_to_no_samples(kind: Kind) -> None:
    noise = np.random.default_rng(5).bytes(200_000)
    found = rows_of(kind, [noise])
    # Seven bits of a SpikerShield's frame are all that it has; what looks like it is its data.
    limit = {"spikershield": 60_000, "bitalino": 12, "scientisst": 6, "scientisst-v2": 2}.get(kind.board, 0)
    assert len(found) <= limit


# As real firmware sent it


def golden_decoder(name: str, told: dict[str, Any]) -> tuple[Decoder, str]:
    boards = {
        "chords": "chords", "bitalino": "bitalino", "byb": "spikershield", "olimex": "olimex", "openbci": "cyton",
        "scientisst_v2": "scientisst-v2", "scientisst": "scientisst", "ascii": "ascii",
    }  # fmt: skip
    board = next(board for prefix, board in boards.items() if name.startswith(prefix))
    return BOARDS[board].decoder(told.get("channels", 0)), board


@pytest.mark.parametrize("piece", [1, 61, 10**6])
@pytest.mark.parametrize(
    "name",
    [
        *(f"bitalino_{n}ch_1000hz" for n in range(1, 7)), "bitalino_1ch_damaged", "chords_uno_r3_v1_230400",
        "chords_uno_r3_v2_115200", "byb_spikershield_1ch_230400", "olimex_ekg_emg_115200", "openbci_cyton_115200",
        "scientisst_1ai", "scientisst_2ai", "scientisst_6ai", "scientisst_v2_2ai",
    ],
)  # fmt: skip
def test_stream_of_real_firmware_gives_its_samples(golden: Path, name: str, piece: int) -> None:
    told = json.loads((golden / f"{name}.json").read_text())
    decoder, board = golden_decoder(name, told)
    data = (golden / f"{name}.bin").read_bytes()
    packets = ended(decoder, [data[at : at + piece] for at in range(0, len(data), piece)])
    columns = told["columns"]
    wanted = [k for k, column in enumerate(columns) if column.startswith(("ch", "A"))]
    frames = told.get("frames") or [[sample] for sample in told["samples"]]
    counted = columns[0] in ("seq", "counter")
    expected = [(frame[0] if counted else None, *(frame[k] for k in wanted)) for frame in frames]
    came = rows(packets, BOARDS[board].counter)
    damage = sum(isinstance(packet, BadFrame) for packet in packets)
    if "damaged" in name:  # of four damages three leave bytes behind; before each a good frame may be given up
        assert damage == 3
        assert 0 <= len(expected) - len(came) <= 3
        assert not Counter(came) - Counter(expected)
    else:
        assert (came, damage) == (expected, 0)
