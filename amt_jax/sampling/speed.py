"""How fast music is made, and how much of the time is compiling."""

from __future__ import annotations

import dataclasses
import functools

import jax


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast results were made, measured on the host.

    Attributes:
      first_token: seconds to the first batch's first tokens, without compiling.
      seconds: to make all, without compiling.
      compiling: seconds that compiling took besides.
      tokens: how many new ones.
      music: seconds of new music.
    """

    first_token: float
    seconds: float
    compiling: float
    tokens: int
    music: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def real_time_factor(self) -> float:
        """Seconds of music made in a second."""
        return self.music / self.seconds


def compile_seconds() -> float:
    """Seconds that this process has compiled since it first asked, tracing and reading kept programs included."""
    return sum(_compile_times())


@functools.cache
def _compile_times() -> list[float]:
    """What each part of compiling takes, from now on."""
    times = []

    def note(event: str, seconds: float, **_) -> None:
        if event.startswith("/jax/core/compile/"):
            times.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    return times
