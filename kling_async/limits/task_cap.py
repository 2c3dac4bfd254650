"""How many tasks may run: the configured limit, or what the service's refusals show.

The account may allow fewer tasks than its limits say, or some of them may be taken by tasks that
this program does not know: of another program, or of the run before a crash. The service then
answers 429 to a submit. Three rules follow from that:

- *Fall.* A refusal shows that no more tasks fit than run now, so the cap becomes their number.
  After it, the next task starts when one has ended, or after some seconds, since the end of an
  unknown task is not seen.
- *Rise.* While the cap keeps tasks waiting and no refusal comes, it rises: by 1, 2, 4, ... every
  10 s. A cap of 1 where 1,000 are allowed is overcome in 100 s. A rise that is refused was in
  vain, and the next one comes later: after 20, 40, 80, then 120 s.
- *Ramp.* A thousand submits at once to an account of three tasks would be 997 refusals. So at
  first 20 tasks start, and then twice as many as have been accepted. That is one more round trip
  for each doubling. Submits that hang do not hold up the others: the ramp doubles each second too.

Pure: no clock is read, times are arguments. They must not go backwards.
"""

from __future__ import annotations

from math import inf

from attrs import define, field

from kling_async.policy.retry import backoff

_RISE_EVERY = 10.0
_LONGEST_RISE_WAIT = 120.0
_FIRST_PROBE = 1.0
_LONGEST_PROBE_WAIT = 5.0
RAMP_START = 20
_RAMP_EVERY = 1.0


@define(eq=False)
class TaskCap:
    """How many tasks may run now, and what is known about it.

    Attributes:
        limit: The configured limit; the cap is never above it.
        cap: The learned limit.
        probing: Since a refusal no task was accepted, and none has ended of which it was known
            that it ran. Tasks start one at a time, with waits in between.
    """

    limit: int
    cap: int = field(init=False)
    probing: bool = field(init=False, default=False)
    _ramp: int = field(init=False)
    _ramp_at: float = field(init=False, default=inf)
    _refused_at: float = field(init=False, default=-inf)
    _probe_at: float = field(init=False, default=0.0)
    _probe_wait: float = field(init=False, default=_FIRST_PROBE)
    _rise_at: float = field(init=False, default=0.0)
    _step: int = field(init=False, default=1)  # more than 1: it has risen since the refusal
    _vain_rises: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.cap = self.limit
        self._ramp = min(RAMP_START, self.limit)

    def try_admit(self, held: int, now: float) -> bool:
        """Return whether one more task may start now; if so, it counts as started.

        Args:
            held: How many run or are being submitted.
            now: The time.
        """
        if held >= self.cap:
            self._rise(now)
        elif held >= self._ramp and now >= self._ramp_at:
            self._ramp *= 2
        if held >= self.cap or held >= self._ramp:
            return False
        if self.probing:
            if now < self._probe_at:
                return False
            self._probe_at = now + self._probe_wait
        self._ramp_at = now + _RAMP_EVERY
        return True

    def next_admission(self, held: int) -> float | None:
        """Return when `try_admit` may answer otherwise though nothing happens; None: never."""
        if held >= self.cap:
            return self._rise_at if self.cap < self.limit else None
        return self._ramp_at if held >= self._ramp else self._probe_at

    def accepted(self, running: int) -> None:
        """Note that the service has accepted a task, or named one that runs.

        Args:
            running: How many tasks are known to run now.
        """
        self.probing, self._probe_wait = False, _FIRST_PROBE
        self.cap = min(self.limit, max(self.cap, running))
        self._ramp = max(self._ramp, 2 * running)

    def refused(self, started: float, running: int, now: float) -> None:
        """Note that the service has refused a submit since too many tasks run.

        Args:
            started: When `try_admit` let the submit start.
            running: How many tasks are known to run now.
            now: The time.
        """
        self.cap = min(self.limit, max(1, running))
        self._ramp = self.limit
        if started > self._refused_at:  # else it is of the same storm as the last refusal
            if self._step > 1:
                self._vain_rises += 1
            elif self.probing:
                self._probe_wait = min(_LONGEST_PROBE_WAIT, 2 * self._probe_wait)
            self.probing, self._step = True, 1
            self._refused_at, self._probe_at = now, now + self._probe_wait
        self._rise_at = now + backoff(self._vain_rises + 1, _RISE_EVERY, _LONGEST_RISE_WAIT)

    def shift(self, shift: float) -> None:
        """Change to a clock that shows so much more."""
        self._ramp_at += shift
        self._refused_at += shift
        self._probe_at += shift
        self._rise_at += shift

    def _rise(self, now: float) -> None:
        if self.cap >= self.limit or now < self._rise_at:
            return
        if self._step > 1:
            self._vain_rises = 0  # the last rise was not refused
        self.cap = min(self.limit, self.cap + self._step)
        self._step *= 2
        self._rise_at = now + _RISE_EVERY
