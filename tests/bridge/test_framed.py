from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from firmware_bridge.decoders.framed import FramedDecoder, encode_data, encode_info
from firmware_bridge.framing import cobs_encode, crc16
from firmware_bridge.packets import BadFrame, Info, Samples
from tests.bridge.helpers import (
    INFO,
    bytes_of,
    codes_of,
    cuts,
    fed,
    framed,
    in_full,
    memory_of,
    pieces_of,
    samples_in,
    steady,
)

GARBAGE = [b"\0" * 40, b"\xff" * 300, b"\xa0" * 77, b"\xc7\x7c" * 50, b"MyoWare Example\r\n512\r\n", bytes(range(256))]


def on_the_wire(body: bytes) -> bytes:
    return cobs_encode(body + crc16(body).to_bytes(2, "little")) + b"\0"


def decoded(data: bytes) -> list[object]:
    """Decode a stream that is joined at a boundary."""
    return in_full(FramedDecoder().feed(b"\0" + data))


def seqs(packets: list[Samples]) -> list[int | None]:
    return [packet.seq for packet in packets]


# Encoding


def test_data_frame_has_the_documented_layout() -> None:
    body = bytes.fromhex("01 23 3412 78563412") + np.array([[1, -2], [3, -4], [5, 32767]], "<i2").tobytes()
    (packet,) = samples_in(FramedDecoder().feed(on_the_wire(body)))
    assert (packet.seq, packet.device_us, packet.labels) == (0x1234, 0x12345678, ())
    assert packet.codes.tolist() == [[1, -2], [3, -4], [5, 32767]]
    assert encode_data(packet.codes.astype(np.int16), 0x1234, 0x12345678) == on_the_wire(body)


def test_info_frame_has_the_documented_layout() -> None:
    body = bytes.fromhex("02 01 02 08 e803 10 e40c 40420f00 00 0000 0700 0300 0900")
    info = replace(INFO, overruns=3, dropped=9)
    assert FramedDecoder().feed(on_the_wire(body)) == [info]
    assert encode_info(info, 8) == on_the_wire(body)


@given(
    info=st.builds(
        Info,
        channels=st.integers(1, 15),
        rate_hz=st.integers(1, 65535).map(float),
        adc_bits=st.integers(8, 16),
        vref_mv=st.integers(1, 65535),
        gain=st.integers(1, 2**32 - 1).map(lambda thousandths: thousandths / 1000),
        kind=st.sampled_from(["raw", "rectified", "envelope"]),
        boot_id=st.integers(0, 65535),
        overruns=st.integers(0, 65535),
        dropped=st.integers(0, 65535),
    )
)
@steady
def test_what_a_board_says_of_itself_comes_back(info: Info) -> None:
    assert FramedDecoder().feed(encode_info(info, 8)) == [info]


@pytest.mark.parametrize(("bits", "codes"), [(8, (0, 255)), (10, (0, 1023)), (15, (0, 32767)), (16, (-32768, 32767))])
def test_info_gives_scale_and_range_of_the_adc(bits: int, codes: tuple[int, int]) -> None:
    info = replace(INFO, adc_bits=bits, vref_mv=5000, gain=200.0)
    assert info.codes == codes
    assert info.uv_per_count == pytest.approx(5e6 / 2**bits / 200)


@pytest.mark.parametrize(
    "wrong",
    [{"channels": 0}, {"rate_hz": 0.0}, {"adc_bits": 7}, {"adc_bits": 17}, {"vref_mv": 0}, {"gain": 0.0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_info_out_of_range_is_damage(wrong: dict[str, float]) -> None:
    (packet,) = FramedDecoder().feed(b"\0" + encode_info(replace(INFO, **wrong), 8))  # type: ignore[arg-type]
    assert isinstance(packet, BadFrame)


@pytest.mark.parametrize(
    "body",
    [
        bytes.fromhex("02 02 02 08 e803 10 e40c 40420f00 00 0000 0700 0300 0900"),  # version 2
        bytes.fromhex("02 01 02 08 e803 10 e40c 40420f00 03 0000 0700 0300 0900"),  # unknown kind
        bytes.fromhex("02 01 02 08 e803"),
        bytes.fromhex("01 11 0000 00000000"),  # no sample
        bytes.fromhex("01 11 0000 00000000 0100 0200"),  # two for one
        bytes.fromhex("01 01 0000 00000000"),  # no channel
        bytes.fromhex("01 10 0000 00000000"),  # no samples wanted
        bytes.fromhex("01 11"),
        bytes.fromhex("03 11 0000 00000000 0100"),
        b"",
    ],
    ids=lambda body: body.hex() or "empty",
)
def test_frame_of_a_wrong_shape_is_damage_in_spite_of_its_checksum(body: bytes) -> None:
    packets = FramedDecoder().feed(b"\0" + on_the_wire(body) + framed(1)[1])
    assert isinstance(packets[0], BadFrame)
    assert seqs(samples_in(packets[1:])) == [0]


# Cutting


def test_whole_stream_gives_every_sample_in_order() -> None:
    packets = FramedDecoder().feed(b"".join(framed(20)))
    assert packets[0] == INFO
    assert in_full(packets[1:]) == in_full(
        Samples(codes.astype(float), k, k * 8000) for k, codes in enumerate(codes_of(20))
    )


@given(at=cuts, flips=st.lists(st.tuples(st.integers(0, 800), st.integers(0, 7)), max_size=4))
@steady
def test_cut_anywhere_same_answer(at: list[int], flips: list[tuple[int, int]]) -> None:
    data = bytearray(b"".join(framed(16)))
    for place, bit in flips:
        data[place % len(data)] ^= 1 << bit
    whole = in_full(FramedDecoder().feed(bytes(data)))
    assert in_full(fed(FramedDecoder(), pieces_of(bytes(data), at))) == whole
    assert in_full(fed(FramedDecoder(), bytes_of(bytes(data)))) == whole


def test_bytes_after_the_last_frame_wait_for_the_rest() -> None:
    first, second = framed(2, info=None)
    decoder = FramedDecoder()
    assert seqs(samples_in(decoder.feed(first + second[:-1]))) == [0]
    assert seqs(samples_in(decoder.feed(second[-1:]))) == [1]


@pytest.mark.parametrize("value", [0, -1, 257])
def test_largest_frame_comes_one_byte_at_a_time(value: int) -> None:
    codes: NDArray[np.int16] = np.full((15, 15), value, np.int16)
    frame = encode_data(codes, 0xFFFF, 0xFFFFFFFF)
    (packet,) = fed(FramedDecoder(), bytes_of(frame))
    assert isinstance(packet, Samples)
    assert packet.codes.tolist() == codes.tolist()


# Damage


def test_joining_anywhere_costs_the_frame_that_was_cut_and_is_no_damage() -> None:
    frames = framed(6, info=None)
    data = b"".join(frames)
    starts = np.cumsum([0, *map(len, frames)])
    for at in range(int(starts[3])):
        packets = FramedDecoder().feed(data[at:])
        whole = int(np.searchsorted(starts, at))
        assert seqs(samples_in(packets)) == list(range(whole, 6))
        assert len(packets) == 6 - whole


def test_no_flipped_bit_gives_a_wrong_sample_or_costs_more_than_two_frames() -> None:
    frames = framed(6)
    good = in_full(FramedDecoder().feed(b"".join(frames)))
    start, length = len(b"".join(frames[:3])), len(frames[3])
    for bit in range(8 * length):
        data = bytearray(b"".join(frames))
        data[start + bit // 8] ^= 1 << bit % 8
        packets = in_full(FramedDecoder().feed(bytes(data)))
        kept = [packet for packet in packets if not isinstance(packet, BadFrame)]
        assert kept in (good[:3] + good[4:], good[:3] + good[5:])
        assert len(packets) > len(kept)


def test_lost_frames_show_in_the_counter_and_are_no_damage() -> None:
    frames = framed(10, info=None)
    packets = FramedDecoder().feed(b"".join(frames[:3] + frames[7:]))
    assert seqs(samples_in(packets)) == [0, 1, 2, 7, 8, 9]
    assert len(packets) == 6


def test_decoder_recovers_after_damage() -> None:
    frames = framed(6, info=None)
    end = len(frames[2]) - 1
    for place in range(1, end + 1):
        cut = frames[2][:place], [0, 1, 4, 5]  # a frame without its end takes its successor with it
        short = frames[2][:place] + frames[2][place + 1 :], [0, 1, 3, 4, 5] if place < end else [0, 1, 4, 5]
        for left, expected in (cut, short):
            packets = FramedDecoder().feed(b"".join([*frames[:2], left, *frames[3:]]))
            assert seqs(samples_in(packets)) == expected
            assert sum(isinstance(packet, BadFrame) for packet in packets) == 1


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: garbage[:4].hex())
def test_garbage_between_frames_costs_at_most_the_frame_that_it_touches(garbage: bytes) -> None:
    frames = framed(4, info=None)
    after = seqs(samples_in(FramedDecoder().feed(b"".join([*frames[:2], garbage, *frames[2:]]))))
    assert after in ([0, 1, 2, 3], [0, 1, 3])
    closed = seqs(samples_in(FramedDecoder().feed(b"".join([*frames[:2], garbage, b"\0", *frames[2:]]))))
    assert closed == [0, 1, 2, 3]
    before = seqs(samples_in(FramedDecoder().feed(b"".join([garbage, *frames]))))
    assert before in ([0, 1, 2, 3], [1, 2, 3])


damages = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.integers(0, 2000), st.integers(0, 7)),
        st.tuples(st.just("cut"), st.integers(0, 2000), st.integers(1, 80)),
        st.tuples(st.just("put"), st.integers(0, 2000), st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("again"), st.integers(0, 2000), st.integers(1, 120)),
    ),
    min_size=1,
    max_size=8,
)


def damaged(data: bytes, how: list[tuple[str, int, int | bytes]]) -> bytes:
    for kind, place, value in how:
        at = place % len(data)
        if isinstance(value, bytes):
            data = data[:at] + value + data[at:]
        elif kind == "flip":
            data = data[:at] + bytes([data[at] ^ 1 << value]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[at + value :] + b"\0"
        else:
            data = data[: at + value] + data[at:]
    return data


@given(how=damages)
@steady
def test_no_damage_makes_up_a_sample(how: list[tuple[str, int, int | bytes]]) -> None:
    frames = framed(30, info=None)
    sent = dict(zip(range(30), decoded(b"".join(frames)), strict=True))
    came = samples_in(FramedDecoder().feed(damaged(b"".join(frames), how)))
    for packet in came:
        assert packet.seq is not None
        assert in_full([packet]) == [sent[packet.seq]]
    # Each of the damages touches a few frames at most; all the others come.
    assert len({packet.seq for packet in came}) >= 30 - 5 * len(how)


# Floods


@pytest.mark.parametrize("piece", [1000, 65536, 10_000_000])
def test_flood_without_an_end_of_frame_keeps_memory_bounded(piece: int) -> None:
    decoder = FramedDecoder()
    flood = b"\xa5" * 10_000_000
    for at in range(0, len(flood), piece):
        assert not samples_in(decoder.feed(flood[at : at + piece]))
        assert memory_of(decoder) < 2000
    frames = framed(3, info=None)
    assert seqs(samples_in(decoder.feed(b"".join(frames)))) in ([0, 1, 2], [1, 2])


@pytest.mark.parametrize("at", [[], [600], [100, 463, 464, 600], list(range(900))], ids=len)
def test_flood_cut_anywhere_gives_the_same_frames(at: list[int]) -> None:
    frames = framed(4, info=None)
    data = b"".join([frames[0], b"\xa5" * (600 - len(frames[0])), *frames[1:]])
    assert seqs(samples_in(fed(FramedDecoder(), pieces_of(data, at)))) == [0, 2, 3]


def test_flood_of_zeros_is_no_damage() -> None:
    decoder = FramedDecoder()
    assert decoder.feed(b"\0" * 1_000_000) == []
    assert seqs(samples_in(decoder.feed(framed(1, info=None)[0]))) == [0]
