"""Where samples belong in time: counters and clocks that wrap, losses, restarts."""

from firmware_bridge.packets import Samples

_SEQ = 2**16
_CLOCK = 2**32
_RATE_WINDOW_S = 10.0
_SLACK_S = 2.0
_MOST_STALLED_S = 120.0


class Timeline:
    """Give every packet its place on one count of samples that never goes back.

    Within a connection the board's own counter says what was lost. Where the board or the link started anew, and
    where there is no counter, the host's clock says how long nothing came. `now_s` is monotonic.
    """

    def __init__(self, rate_hz: float) -> None:
        self.rate_hz = rate_hz
        self.next = 0
        self.lost = 0
        self.repeated = 0
        self._seq: int | None = None
        self._device_us: int | None = None
        self._samples = 0
        self._last_s: float | None = None
        self._fresh = True
        self._spare = 0.0  # samples for which time has passed and nothing has come: a reader may have stalled
        self._rate_from: tuple[float, int] | None = None
        self.measured_hz: float | None = None

    def restart(self) -> None:
        """Note that the board or the link starts anew: the next packet is placed by the host's clock."""
        self._fresh = True
        self._rate_from = self.measured_hz = None

    def change_rate(self, rate_hz: float) -> None:
        """Count in samples of another rate from here on; the time reached stays the same."""
        if self.rate_hz and rate_hz != self.rate_hz:
            self.next = round(self.next * rate_hz / self.rate_hz)
        self.rate_hz = rate_hz
        self.restart()

    def lose(self, samples: int) -> None:
        """Leave room for samples that are known to be lost."""
        self.next += samples
        self.lost += samples

    def discard(self, packet: Samples, now_s: float) -> None:
        """Leave room for a packet whose samples cannot be used."""
        if self.place(packet, now_s) is not None:
            self.lost += len(packet.codes)

    def place(self, packet: Samples, now_s: float) -> int | None:
        """Return the index of the packet's first sample; None for a repeated packet."""
        gap = self._gap(packet, now_s)
        if gap is None:
            self.repeated += len(packet.codes)
            return None
        self.lose(gap)
        start = self.next
        self.next += len(packet.codes)
        self._seq, self._device_us, self._samples = packet.seq, packet.device_us, len(packet.codes)
        passed = 0.0 if self._fresh or self._last_s is None else (now_s - self._last_s) * self.rate_hz
        spare = self._spare + passed - len(packet.codes) - gap
        self._spare = min(max(0.0, spare), _MOST_STALLED_S * self.rate_hz)
        self._last_s, self._fresh = now_s, False
        self._measure(now_s)
        return start

    def _gap(self, packet: Samples, now_s: float) -> int | None:
        silent_s = 0.0 if self._last_s is None else now_s - self._last_s
        by_host = max(0, round(silent_s * self.rate_hz) - len(packet.codes))
        if self._fresh:
            return by_host
        if packet.seq is None or self._seq is None:
            return 0
        steps = (packet.seq - self._seq) % _SEQ
        if steps == 0 and packet.device_us == self._device_us:
            return None
        gap = (steps - 1) * self._samples
        if packet.device_us is not None and self._device_us is not None:
            elapsed = (packet.device_us - self._device_us) % _CLOCK / 1e6 * self.rate_hz
            by_clock = round(elapsed) - self._samples
            # The counter is exact until it wraps; the clock then tells how often it did.
            turns = round((by_clock - gap) / (_SEQ * self._samples))
            gap += turns * _SEQ * self._samples
        # Nothing can have been lost faster than time passes: else the board has started anew.
        return gap if 0 <= gap <= self._spare + (silent_s + _SLACK_S) * self.rate_hz else by_host

    def _measure(self, now_s: float) -> None:
        """Compare the samples that should have come with the host's clock, over ten seconds at a time."""
        if self._rate_from is None:
            self._rate_from = now_s, self.next
        since, first = self._rate_from
        if now_s - since >= _RATE_WINDOW_S:
            self.measured_hz = (self.next - first) / (now_s - since)
            self._rate_from = now_s, self.next
