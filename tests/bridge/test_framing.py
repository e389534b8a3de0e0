import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.framing import cobs_decode, cobs_encode, crc16
from tests.bridge.helpers import steady

runs = st.lists(
    st.tuples(st.integers(0, 255), st.one_of(st.integers(0, 600), st.sampled_from([253, 254, 255, 508, 509]))),
    max_size=8,
).map(lambda parts: b"".join(bytes([value]) * length for value, length in parts))


def test_checksum_has_the_check_value_of_its_catalogue() -> None:
    assert crc16(b"123456789") == 0x29B1
    assert crc16(b"") == 0xFFFF


@pytest.mark.parametrize(
    ("data", "stuffed"),
    [
        ("", "01"),
        ("00", "01 01"),
        ("00 00", "01 01 01"),
        ("11 22 00 33", "03 11 22 02 33"),
        ("11 22 33 44", "05 11 22 33 44"),
        ("11 00 00 00", "02 11 01 01 01"),
    ],
)
def test_stuffing_gives_the_published_examples(data: str, stuffed: str) -> None:
    assert cobs_encode(bytes.fromhex(data)) == bytes.fromhex(stuffed)
    assert cobs_decode(bytes.fromhex(stuffed)) == bytes.fromhex(data)


@given(data=st.one_of(st.binary(max_size=1200), runs))
@steady
def test_stuffing_comes_back_and_leaves_no_zero(data: bytes) -> None:
    stuffed = cobs_encode(data)
    assert 0 not in stuffed
    assert len(stuffed) <= len(data) + len(data) // 254 + 1
    assert cobs_decode(stuffed) == data


@pytest.mark.parametrize("length", [253, 254, 255, 507, 508, 509, 762])
@pytest.mark.parametrize("tail", [b"", b"\0", b"\0\1"])
def test_long_runs_without_a_zero_come_back(length: int, tail: bytes) -> None:
    data = bytes(1 + k % 255 for k in range(length)) + tail
    assert cobs_decode(cobs_encode(data)) == data


def test_a_full_last_run_needs_no_closing_code() -> None:
    # Encoders differ here: some close a last run of 254 bytes with a code 01, some do not.
    run = bytes(range(1, 255))
    assert cobs_decode(b"\xff" + run) == cobs_decode(b"\xff" + run + b"\x01") == run


@pytest.mark.parametrize(
    "stuffed",
    ["00", "05 11", "02", "ff 01 02", "02 11 00", "02 11 05 22", "03 00 01", "04 11 00 22"],
    ids=lambda stuffed: stuffed.replace(" ", "-"),
)
def test_bytes_that_cannot_be_stuffed_data_give_none(stuffed: str) -> None:
    assert cobs_decode(bytes.fromhex(stuffed)) is None
