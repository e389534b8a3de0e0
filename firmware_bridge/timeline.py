"""Where samples belong in time: counters and clocks that wrap, losses, repeats, restarts."""

from firmware_bridge.line import Line
from firmware_bridge.packets import Samples

_SLACK_S = 2.0  # as long as the host's clock says little: the first packet may have waited
_SLACK_FITTED_S = 0.25
_MOST_BACK = 16  # counts by which a packet may go back; further back the board has started anew
_RESET_S = 0.5  # a board that was reset is away for longer than this
_JITTER = 0.75  # samples by which a board's clock may be off
_DRIFT = 0.01  # how far a board's clock may be off its rate before that is known

_AFTER, _EDGE, _BEFORE = 3, 1, 3  # seconds that are compared around a step
_LEAST_POINTS = 10
_LEAST_STEP_S = 0.03
_ANEW_S = 1.0  # a step that no counter explains is a reset that looked like a loss


class Timeline:
    """Give every packet its place on one count of samples that never goes back.

    Within a connection the board's own counter, which starts again at 0 after `counter`, says what was lost; where
    there is none its clock, which does so after `clock_us`. Where the board or the link started anew the host's clock
    says how long nothing came. `now_s` is monotonic.

    A small counter hides losses of whole turns, and without counter and clock all are hidden. They show as samples
    that are late from then on: a step up of the host's time minus the sample's, by each second's most punctual arrival,
    which lasts 3 s. Such a loss is found 3 to 5 s later and left room for before the next packet. So it is in the wrong
    place by that, and its length is off by what the punctual arrivals jitter: below 1 ms over USB, up to 8 ms where
    an adapter asks every 16 ms. (Of a small counter it is whole turns, exactly.) What is shorter than 30 ms (without
    a counter), than a packet and a half or than three times the jitter so far is not found; nor what is lost in
    the first 10 s of a connection, or again and again within seconds, which looks like a slower board.

    Without `live` the samples come as fast as they can be read, and the host's clock says nothing of that.
    """

    def __init__(self, rate_hz: float, counter: int = 2**16, clock_us: int = 2**32, *, live: bool = True) -> None:
        self.rate_hz = rate_hz
        self.next = 0
        self.lost = 0
        self.repeated = 0
        self.restarts = 0
        self._counter = counter
        self._clock_us = clock_us
        self._live = live
        self._line = Line()  # of counted samples on the host's clock
        self._device = Line()  # and on the board's own, where it has one
        self._last: Samples | None = None
        self._device_s = 0.0
        self._fresh = True
        self._grain = 1.0  # samples of the shorter packets of late
        self._owed = 0  # samples known to be lost, to be left room for before the next packet

    @property
    def measured_hz(self) -> float | None:
        """Samples that should have come, lost ones included, per second of the host; None in the first 3 s."""
        return self.rate_hz / self._line.stretch if self._live and self._line.fitted and not self._fresh else None

    @property
    def settled(self) -> bool:
        """Whether `measured_hz` is good to 0.1 % or so."""
        return self._line.seconds >= _LEAST_POINTS

    def restart(self) -> None:
        """Note that the board or the link starts anew: the next packet is placed by the host's clock."""
        self._fresh = True
        self._owed = 0

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
        start = self.place(packet, now_s)
        if start is not None:
            self.lost += self.next - start

    def place(self, packet: Samples, now_s: float) -> int | None:
        """Return the index of the packet's first new sample, None where all came before.

        The new ones are its last `next` minus this index.
        """
        n = len(packet.codes)
        missing = None if self._fresh else self._missing(packet, now_s)
        if missing is None:
            missing = max(0, round(self._late(n, now_s)))
            self._begin()
        whole = packet.seq is not None and packet.steps == 1  # such a packet comes again as a whole or not at all
        again = n if missing < 0 and whole else min(n, max(0, -missing))
        self.repeated += again
        if again == n:
            return None
        self.lose(max(0, missing) + self._owed)
        self._owed = 0
        start = self.next
        self.next += n - again
        self._follow(packet, now_s)
        return start

    def _begin(self) -> None:
        self.restarts += self._last is not None
        self._last, self._fresh = None, False
        self._line.restart()
        self._device.restart()

    def _late(self, n: int, now_s: float) -> float:
        """Return how many samples had time to be lost before so many that came now; a delay looks the same."""
        late_s = self._line.late((self.next + self._owed + n) / self.rate_hz, now_s)
        return max(0.0, late_s) / self._line.stretch * self.rate_hz

    def _missing(self, packet: Samples, now_s: float) -> int | None:
        """Return how many samples are missing before a packet, below 0 how many of it came before.

        None where that cannot be: the board has started anew.
        """
        last, late = self._last, self._late(len(packet.codes), now_s)
        if last is None:
            return 0
        by_clock = self._by_clock(last, packet)
        if packet.seq is not None and last.seq is not None:
            each = _each(last)
            turn = self._counter * each
            missing = (packet.seq - last.seq - last.steps) % self._counter * each
            most_back = min(_MOST_BACK, self._counter // 2) * each
            if by_clock is not None:  # it tells how often the counter wrapped, and whether it went back
                missing += round((by_clock - missing) / turn) * turn
            elif turn - missing <= most_back and late < missing - turn / 2:
                missing -= turn
        elif by_clock is not None:
            most_back = _MOST_BACK
            tolerance = _JITTER if self._device.fitted else _JITTER + _DRIFT * _since_clock(last)[1]
            missing = 0 if abs(by_clock) <= tolerance else round(by_clock)
        else:
            return 0
        if missing < 0:
            return missing if -missing <= most_back and late <= _RESET_S * self.rate_hz else None
        # Nothing can have been lost faster than time passes.
        slack_s = _SLACK_FITTED_S if self._line.fitted else _SLACK_S
        return missing if missing <= late + slack_s * self.rate_hz else None

    def _by_clock(self, last: Samples, packet: Samples) -> float | None:
        """Return the samples that are missing by the board's clock, which may run off its rate."""
        if packet.device_us is None or last.device_us is None:
            return None
        then_us, since = _since_clock(last)
        passed_s = self._passed_us(then_us, packet.device_us) / 1e6 / self._device.stretch
        return passed_s * self.rate_hz - since

    def _passed_us(self, before_us: int, after_us: int) -> int:
        """Return how far a clock that wraps went on; more than half a turn is back."""
        half = self._clock_us // 2
        return (after_us - before_us + half) % self._clock_us - half

    def _follow(self, packet: Samples, now_s: float) -> None:
        if packet.device_us is not None:
            if self._last is not None and self._last.device_us is not None:
                self._device_s += self._passed_us(self._last.device_us, packet.device_us) / 1e6
            if packet.seq is None:
                self._device.see((self.next - len(packet.codes)) / self.rate_hz, self._device_s)
        self._last = packet
        self._grain = min(len(packet.codes), 1.01 * self._grain)
        if self._line.see(self.next / self.rate_hz, now_s) and self._live and packet.device_us is None:
            self._find_hidden(packet)

    def _find_hidden(self, packet: Samples) -> None:
        """Look for a loss that neither counter nor clock told."""
        if not self.settled:
            return
        late = self._line.residuals()
        before, after = late[-_AFTER - _EDGE - _BEFORE : -_AFTER - _EDGE], late[-_AFTER:]
        step_s = min(after) - min(before)
        usual = sorted(late[: -_AFTER - _EDGE])
        jitter_s = usual[len(usual) * 9 // 10]
        # Packets that beat with the polls of an adapter make steps as long as they are. A slope that changes is no
        # step: it goes on rising.
        if step_s < max(3 * jitter_s, 1.5 * self._grain / self.rate_hz) or max(after) - min(after) > step_s / 4:
            return
        samples = self._as_loss(step_s, jitter_s, packet)
        if samples:
            self._owed += samples
            self._line.skip(sum(r > step_s / 2 for r in late[-_AFTER - _EDGE :]), samples / self.rate_hz)

    def _as_loss(self, step_s: float, jitter_s: float, packet: Samples) -> int:
        """Return how many samples a lasting delay stands for; 0 where it is one."""
        samples = step_s / self._line.stretch * self.rate_hz
        if packet.seq is not None:
            turn = self._counter * _each(packet)
            whole = round(samples / turn) * turn
            if whole and abs(samples - whole) <= min(turn / 4, (_LEAST_STEP_S + jitter_s) * self.rate_hz):
                return whole
        least_s = _LEAST_STEP_S if packet.seq is None else _ANEW_S
        return round(samples) if step_s >= least_s else 0


def _each(packet: Samples) -> int:
    """Return the samples for which a board counts on by one."""
    return max(1, len(packet.codes) // packet.steps)


def _since_clock(packet: Samples) -> tuple[int, int]:
    """Return the last clock that a packet tells, in µs, and how many samples it has from there on."""
    if packet.times_us is not None:
        return int(packet.times_us[-1]), 1
    return packet.device_us or 0, len(packet.codes)
