"""What is asked of the sampler, the sizes it is worked off in, and what comes back.

L vectors of width W a condition   T tokens
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from amt_jax.sampling.settings import GenerationSettings


@dataclasses.dataclass(frozen=True)
class Request:
    """One piece to make.

    Attributes:
      settings: how to sample it.
      conditions: condition name -> its value, [L, W] float16; what is missing is null.
      prompt: ids to continue, without BOS; empty starts a new piece. [T] uint16
      programs: the only instruments that new notes may have, 128 for drums; None for any.
      guides: how strongly to follow which conditions, (names, scale) each; empty to follow all by settings.guidance.
      against: what to be led away from, as `conditions`; empty for what the model does when nothing is asked.
    """

    settings: GenerationSettings
    conditions: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    prompt: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.uint16))
    programs: tuple[int, ...] | None = None
    guides: Sequence[tuple[Sequence[str], float]] = ()
    against: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def branches(self) -> list[tuple[Mapping[str, np.ndarray], float]]:
        """What to ask the model, and with which scale: (conditions, scale) each, the base of guidance first.

        A single one if there is nothing to guide.
        """
        guides = self.guides or [(tuple(self.conditions), self.settings.guidance)]
        if not (self.conditions or self.against) or (
            not self.against and not self.guides and self.settings.guidance == 1
        ):
            return [(self.conditions, 1.0)]
        return [
            (self.against, 0.0),
            *(({name: self.conditions[name] for name in names}, scale) for names, scale in guides),
        ]


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The sizes of a batch's programs. A row's music depends on its request and on these, nothing else.

    Attributes:
      rows: B, a power of two.
      width: prompt slots.
      branches: G, 1 without guidance; else a base and one for each group of conditions with a scale of its own.
      candidates: tokens looked at after top-k.
      budget: new tokens at most, a power of two.
      counted: whether the clocks count notes, because a row limits its polyphony.
    """

    rows: int
    width: int
    branches: int
    candidates: int
    budget: int
    counted: bool = False


@dataclasses.dataclass(frozen=True)
class Result:
    """One piece made.

    Attributes:
      ids: new token ids without EOS. [T] uint16
      bucket: the batch it was made in.
      row: its row there.
      seconds: of new music, to the end of its last note.
    """

    ids: np.ndarray
    bucket: Bucket
    row: int
    seconds: float
