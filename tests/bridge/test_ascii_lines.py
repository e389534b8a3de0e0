import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.decoders.ascii_lines import AsciiDecoder, encode_line
from firmware_bridge.packets import BadFrame, Packet
from tests.bridge.helpers import bytes_of, cuts, fed, line_by_line, memory_of, pieces_of, samples_in, steady

NAN = math.nan


def read(*lines: bytes) -> list[Packet]:
    """Decode whole lines of a stream that is joined at the start of one."""
    return AsciiDecoder().feed(b"\n" + b"".join(line + b"\r\n" for line in lines))


def rows(packets: list[Packet]) -> list[list[float]]:
    return [row for packet in samples_in(packets) for row in packet.codes.tolist()]


def lost(packets: list[Packet]) -> int:
    return sum(packet.samples for packet in packets if isinstance(packet, BadFrame))


def same(a: list[list[float]], b: list[list[float]]) -> bool:
    return np.array_equal(np.array(a), np.array(b), equal_nan=True)


# What a line may be


@pytest.mark.parametrize(
    ("line", "values"),
    [
        (b"512", [512]),
        (b"512,498", [512, 498]),
        (b"512, 498", [512, 498]),
        (b"512;498", [512, 498]),
        (b"512 ; 498", [512, 498]),
        (b"512\t498", [512, 498]),
        (b"512 498", [512, 498]),
        (b"512   498\t1", [512, 498, 1]),
        (b"  512,498  ", [512, 498]),
        (b"-5,+7", [-5, 7]),
        (b"1.5,-.25,3.", [1.5, -0.25, 3]),
        (b"1e3,-2.5E-2,1e+2", [1000, -0.025, 100]),
        (b"0,-0", [0, 0]),
        (b"nan,NaN,NAN,-nan,7", [NAN, NAN, NAN, NAN, 7]),
        (b"inf,-inf,INF,ovf,-ovf,7", [NAN, NAN, NAN, NAN, NAN, 7]),
        (b"1e999,7", [NAN, 7]),
        (b"nan", [NAN]),
        (b"inf", [NAN]),
        (b"raw:512,env:30", [512, 30]),
        (b"raw:512\tenv:30", [512, 30]),
        (b"raw:512 env:30", [512, 30]),
        (b"raw: 512, env: 30", [512, 30]),
        (b"left side:512,right side:nan", [512, NAN]),
        (b"raw:512,30", [512, 30]),
    ],
    ids=lambda given: given.decode() if isinstance(given, bytes) else "",
)
def test_line_gives_its_numbers(line: bytes, values: list[float]) -> None:
    packets = read(line)
    assert len(packets) == 1
    assert same(rows(packets), [values])


def test_labels_name_the_columns() -> None:
    assert samples_in(read(b"raw:512,env:30"))[0].labels == ("raw", "env")
    assert samples_in(read(b"left side:512; right side:30"))[0].labels == ("left side", "right side")
    assert samples_in(read(b"512,30"))[0].labels == ("", "")


@pytest.mark.parametrize("name", ["t", "time", "ms", "us", "millis", "micros", "Timestamp"])
def test_column_labelled_as_a_time_is_no_channel(name: str) -> None:
    packets = read(*(f"{name}:{1000 + k},raw:{k}".encode() for k in range(3)))
    assert rows(packets) == [[0], [1], [2]]
    assert samples_in(packets)[0].labels == ("raw",)


def test_line_with_only_a_time_is_no_reading() -> None:
    assert rows(read(b"t:1000", b"t:1001")) == []


@pytest.mark.parametrize("line", [b"# 512", b"#", b"", b"   ", b"ready", b"MyoWare Example", b"\xff\xfe", b"-", b","])
def test_line_without_a_reading_is_skipped_and_is_no_damage(line: bytes) -> None:
    packets = read(b"512,498", line, b"513,499")
    assert rows(packets) == [[512, 498], [513, 499]]
    assert lost(packets) == 0


def test_banner_with_a_number_is_no_lost_sample() -> None:
    packets = read(b"MyoWare v2", b"512", b"513")
    assert rows(packets) == [[512], [513]]
    assert lost(packets) == 0


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" \r\n", b"\t\n"])
def test_any_end_of_line_will_do(end: bytes) -> None:
    assert rows(AsciiDecoder().feed(end + b"512,498" + end + b"513,499" + end)) == [[512, 498], [513, 499]]


@pytest.mark.parametrize("line", [b"-ovf", b"ovf", b"nan", b"inf", b"NAN", b"-inf"])
def test_value_that_the_board_did_not_have_keeps_its_place(line: bytes) -> None:
    assert same(rows(read(b"512", line, b"513")), [[512], [NAN], [513]])


@given(values=st.lists(st.floats(width=64), min_size=1, max_size=8))
@steady
def test_printed_numbers_read_back_to_the_same_bits(values: list[float]) -> None:
    printed = encode_line(np.array(values))
    known = np.array([[v if math.isfinite(v) else NAN for v in values]])
    (packet,) = samples_in(AsciiDecoder().feed(b"\n" + printed))
    assert packet.codes.tobytes() == known.tobytes()


# Cut lines


def test_first_line_is_never_used_because_it_may_be_cut() -> None:
    assert rows(AsciiDecoder().feed(b"12\r\n512\r\n513\r\n")) == [[512], [513]]
    assert rows(fed(AsciiDecoder(), bytes_of(b"12\r\n512\r\n513\r\n"))) == [[512], [513]]


def test_line_without_its_end_is_not_used_yet() -> None:
    decoder = AsciiDecoder()
    assert decoder.feed(b"\n10") == []
    assert decoder.feed(b"2") == []
    assert rows(decoder.feed(b"3\n9")) == [[1023]]


texts = st.lists(
    st.one_of(
        st.sampled_from(
            [b"512,498", b"-1.5;2e3", b"7\t8", b"9 10", b"nan,3", b"ovf,inf", b"1,2,3", b"4", b"a:1,b:2", b"51x,498"]
        ),
        st.sampled_from(
            [b"", b"# note 1", b"MyoWare v2", b"x,y", b"t:5,a:1", b" 1 , 2 ", b"1,,2", b"1,2,", b"\xff1,2"]
        ),
        st.text("0123456789.,;\t +-eEnaif:#x", max_size=12).map(str.encode),
    ),
    max_size=40,
)


@given(lines=texts, end=st.sampled_from([b"\n", b"\r\n"]), at=cuts)
@steady
def test_cut_anywhere_same_answer(lines: list[bytes], end: bytes, at: list[int]) -> None:
    data = b"banner" + end + b"".join(line + end for line in lines)
    whole = line_by_line(AsciiDecoder().feed(data))
    assert line_by_line(fed(AsciiDecoder(), pieces_of(data, at))) == whole
    assert line_by_line(fed(AsciiDecoder(), bytes_of(data))) == whole


@given(
    values=st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=2),
    separator=st.sampled_from([b",", b";", b"\t", b" ", b", ", b" ;\t"]),
)
@steady
def test_lines_in_bulk_give_the_same_as_one_by_one(values: list[list[float]], separator: bytes) -> None:
    lines = [separator.join(repr(v).encode() for v in row) + b"\r\n" for row in values]
    bulk, single = AsciiDecoder(), AsciiDecoder()
    for decoder in (bulk, single):
        decoder.feed(b"\n" + lines[0])  # the shape is known from here on
    (packet,) = samples_in(bulk.feed(b"".join(lines)))
    assert packet.codes.tobytes() == np.array(values).tobytes()
    assert line_by_line([packet]) == line_by_line(fed(single, lines))


@pytest.mark.parametrize("kind", ["int", "csv", "plotter"])
@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_stream_of_a_real_sketch_gives_every_reading(golden: Path, kind: str, size: int) -> None:
    data = (golden / f"ascii_{kind}_115200.bin").read_bytes()
    facts = json.loads((golden / f"ascii_{kind}_115200.json").read_text())
    packets = fed(AsciiDecoder(), [data[k : k + size] for k in range(0, len(data), size)])
    assert rows(packets) == facts["samples"]
    assert len(samples_in(packets)) == len(packets)
    assert {packet.labels for packet in samples_in(packets)} == {tuple(facts["labels"] or [""] * facts["channels"])}


# Damage


@pytest.mark.parametrize(
    "line", [b"51\xff,498", b"512,4x8", b"512", b"512,498,1", b"512,,498", b"512,", b"a:512,b:498"]
)
def test_bad_line_is_one_lost_sample(line: bytes) -> None:
    packets = read(b"1,2", b"3,4", line, b"5,6")
    assert rows(packets) == [[1, 2], [3, 4], [5, 6]]
    assert lost(packets) == 1


@pytest.mark.parametrize("line", [b"51x", b"5\xff2", b"5-12", b"5.1.2", b"512x513"])
def test_bad_line_of_a_single_channel_is_one_lost_sample(line: bytes) -> None:
    packets = read(b"1", b"2", line, b"3")
    assert rows(packets) == [[1], [2], [3]]
    assert lost(packets) == 1


def test_damage_stands_where_it_happened() -> None:
    packets = read(b"1,2", b"3,x", b"5,6")
    assert [isinstance(packet, BadFrame) for packet in packets] == [False, True, False]


@pytest.mark.parametrize("other", [b"7", b"7,8,9", b"a:7,b:8"])
def test_another_shape_is_believed_after_five_equal_lines(other: bytes) -> None:
    packets = read(b"1,2", other, other, other, other)
    assert (rows(packets), lost(packets)) == ([[1, 2]], 4)
    packets = read(b"1,2", other, other, other, other, other, other)
    assert (len(rows(packets)), lost(packets)) == (3, 4)
    assert len(rows(packets)[-1]) == other.count(b",") + 1


def test_lines_of_different_wrong_shapes_are_never_believed() -> None:
    packets = read(b"1,2", *[b"3", b"4,5,6"] * 20, b"7,8")
    assert (rows(packets), lost(packets)) == ([[1, 2], [7, 8]], 40)


def test_scattered_damage_never_passes_for_another_shape() -> None:
    good = [b"512,498"] * 10
    packets = read(*[*good, b"512498"] * 20)
    assert rows(packets) == [[512, 498]] * 200
    assert lost(packets) == 20
    decoder = AsciiDecoder()
    in_pieces = fed(decoder, [b"\n", *(b"\n".join(good) + b"\n", b"512498\n") * 20])
    assert line_by_line(in_pieces) == line_by_line(packets)


# Floods


@pytest.mark.parametrize("flood", [b"9", b"9 ", b"9,", b"-", b" ", b"\xff"], ids=lambda flood: flood.hex())
def test_flood_without_an_end_of_line_keeps_memory_bounded(flood: bytes) -> None:
    decoder = AsciiDecoder()
    decoder.feed(b"\n512\r\n")
    piece = flood * (65536 // len(flood))
    for _ in range(10_000_000 // len(piece)):
        assert not samples_in(decoder.feed(piece))
        assert memory_of(decoder) < 4000
    assert rows(decoder.feed(b"7\r\n513\r\n")) == [[513]]


def test_flood_costs_no_line_before_it_and_its_end_is_no_reading() -> None:
    decoder = AsciiDecoder()
    packets = decoder.feed(b"\n1\n2\n3\n" + b"9" * 5000) + decoder.feed(b"8\n4\n5\n")
    assert rows(packets) == [[1], [2], [3], [4], [5]]
    assert any(isinstance(packet, BadFrame) for packet in packets)


@pytest.mark.parametrize("at", [[], [20], [2100], [5000], list(range(5100))], ids=len)
def test_line_of_unreasonable_length_is_damage_however_it_comes(at: list[int]) -> None:
    data = b"\n1\n2\n" + b"9 " * 2500 + b"\n3\n4\n"
    assert rows(fed(AsciiDecoder(), pieces_of(data, at))) == [[1], [2], [3], [4]]


@pytest.mark.timeout(15)
def test_huge_chunk_with_one_bad_line_is_read_soon() -> None:
    decoder = AsciiDecoder()
    decoder.feed(b"\n512,498\r\n")
    good = b"512,498\r\n" * 200_000
    packets = decoder.feed(good + b"512,4x8\r\n" + good)
    codes = np.concatenate([packet.codes for packet in samples_in(packets)])
    assert codes.shape == (400_000, 2)
    assert np.all(codes == [512, 498])
    assert lost(packets) == 1


@pytest.mark.timeout(15)
@pytest.mark.parametrize(
    "line",
    [
        b"1" * 2_000_000 + b"x",
        b"1 " * 300_000 + b"x",
        b" " * 2_000_000 + b"x1",
        b"a:" * 300_000 + b"1",
        b"1e" * 500_000,
    ],
    ids=["digits", "numbers", "blanks", "labels", "exponents"],
)
def test_huge_bad_line_is_refused_soon(line: bytes) -> None:
    decoder = AsciiDecoder()
    decoder.feed(b"\n512,498\r\n")
    packets = decoder.feed(line + b"\r\n513,499\r\n")
    assert rows(packets) == [[513, 499]]
