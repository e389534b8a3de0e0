"""A short run of `make fuzz`, the same every time, and that it would see a fault."""

import numpy as np
import pytest

from firmware_bridge.decoders import spikershield
from firmware_bridge.decoders.spikershield import SpikerShieldDecoder
from firmware_bridge.packets import Samples
from tests.bridge.helpers import fed, samples_in
from tests.bridge.streams import KINDS, Kind
from tests.bridge.test_frames import rows_of
from tests.fuzz import CHECKS, Fuzzer, PromiseError, check_readable, main, shortened, why_not

BITALINO = next(kind for kind in KINDS if str(kind) == "bitalino 2")


def test_no_damage_breaks_a_decoder_or_the_bridge() -> None:
    fuzzer = Fuzzer(seed=1)
    for _ in range(12):
        fuzzer.round()
    assert not fuzzer.failures, "\n".join(map(str, fuzzer.failures))
    assert fuzzer.tried == 12 * len(KINDS)


def test_same_seed_tries_the_same_streams() -> None:
    one, two = (Fuzzer(seed=5, kinds=[BITALINO]) for _ in range(2))
    for fuzzer in (one, two):
        for _ in range(6):
            fuzzer.round()
    assert one.targets[0].corpus == two.targets[0].corpus
    assert one.targets[0].next_input() == two.targets[0].next_input()


def test_sample_that_was_not_sent_is_seen() -> None:
    data = b"".join(BITALINO.stream(10))
    made_up = [*samples_in(BITALINO.decoder().feed(data)), Samples(np.array([[1.0, 2.0]]), seq=9)]
    with pytest.raises(PromiseError, match="not sent"):
        check_readable(BITALINO, data, made_up)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.board != "spikershield"], ids=str)
def test_samples_out_of_order_or_twice_are_seen(kind: Kind) -> None:
    data = b"".join(kind.stream(10))
    decoder = kind.decoder()
    packets = samples_in([*decoder.feed(data), *decoder.end()])
    check_readable(kind, data, packets)
    with pytest.raises(PromiseError, match="not sent"):
        check_readable(kind, data, [*packets, packets[0]])


def test_what_fails_is_cut_down_to_what_matters() -> None:
    def no_seven(_: object, data: bytes) -> None:
        if b"\x07" in data:
            raise ValueError("a seven")

    data = b"".join(BITALINO.stream(30)) + b"\x07" + bytes(100)
    assert why_not(no_seven, BITALINO, data) == "ValueError: a seven"
    assert shortened(no_seven, BITALINO, data) == b"\x07"


def test_one_stream_is_checked_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--board", "bitalino 2", "--input", b"".join(BITALINO.stream(5)).hex()]) == 0
    assert capsys.readouterr().out == "all holds\n"
    assert set(CHECKS) == {"decoder", "bridge"}


# What the fuzzer found


@pytest.mark.parametrize("torn", [1, 3, 40])
def test_frames_of_a_spikershield_before_its_length_is_known_count_the_same_however_they_are_cut(torn: int) -> None:
    codes = np.arange(30).reshape(30, 1)
    # A few frames, a break, and what tells the length.
    data = spikershield.encode_frames(codes[:4]) + bytes(torn) + spikershield.encode_frames(codes[4:])
    whole = samples_in(SpikerShieldDecoder().feed(data))
    single = samples_in(fed(SpikerShieldDecoder(), [data[k : k + 1] for k in range(len(data))]))
    assert np.concatenate([p.codes for p in whole]).tolist()[:15] == codes[4:19].tolist()
    assert np.concatenate([p.codes for p in single]).tolist() == np.concatenate([p.codes for p in whole]).tolist()


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_noise_between_frames_of_a_spikershield_does_not_change_how_many_channels_it_has(channels: int) -> None:
    # Another number of channels is another signal, for which the wearer's levels may not fit.
    rng = np.random.default_rng(4)
    frames = spikershield.encode_frames(rng.integers(0, 1024, (200, channels)))
    decoder = SpikerShieldDecoder()
    found = samples_in(fed(decoder, [part for _ in range(60) for part in (frames, rng.bytes(3000))]))
    assert {packet.codes.shape[1] for packet in found} == {channels}


@pytest.mark.parametrize("name", ["bitalino 1", "bitalino 2", "scientisst 2", "scientisst-v2 2"])
def test_rest_of_a_frame_that_lost_its_beginning_is_not_made_whole_with_the_end_of_the_one_before(name: str) -> None:
    # Counter and checksum are at the end: with bytes of the frame before it, one rest in sixteen has a right checksum.
    kind = next(kind for kind in KINDS if str(kind) == name)
    rng = np.random.default_rng(1)
    made_up = came = 0
    for seed in range(20):
        first, *frames = kind.stream(200, seed=seed)
        true = {row[1:] for row in rows_of(kind, [first, *frames])}
        torn = [f[int(rng.integers(1, len(f))) :] if k % 16 == 15 else f for k, f in enumerate(frames)]
        found = rows_of(kind, [first, *torn])
        made_up += sum(row[1:] not in true for row in found)
        came += len(found)
    # Of 240 rests; where the counter has four bits, one place in 256 agrees by chance.
    assert made_up <= (4 if kind.board == "bitalino" else 0)
    assert came >= 20 * 187, "no whole frame is given up"
