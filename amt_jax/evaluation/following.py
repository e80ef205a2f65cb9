"""Following: whether music is what its words asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from symusic import Score
from tqdm import tqdm

from amt_jax.data.conditions import TEXT
from amt_jax.data.pipeline import Records
from amt_jax.errors import UserError
from amt_jax.evaluation.metrics import Estimate, bootstrap
from amt_jax.music import instruments
from amt_jax.music.classes import density_class, tempo_class
from amt_jax.music.features import features
from amt_jax.sampling.generator import Generator
from amt_jax.sampling.order import Order
from amt_jax.text import vocabulary
from amt_jax.text.understanding import Understanding, understand_all

ASPECTS = ("tempo", "mode", "density", "instruments")
OTHER, SILENT, TOLD = "a model without text", "not told", "told the text"


@dataclasses.dataclass(frozen=True)
class Followed:
    """How often one aspect was as asked.

    Attributes:
      asked: pieces whose text names it.
      shares: way of asking -> share of them that follow.
    """

    asked: int
    shares: Mapping[str, Estimate]


def wanted(found: Understanding) -> dict[str, Any]:
    """What a text asks for, aspect -> class; instruments are a set."""
    aspects = {
        "tempo": found.tempo,
        "mode": found.mode,
        "density": found.density,
        "instruments": frozenset(found.values(vocabulary.INSTRUMENT)),
    }
    return {name: value for name, value in aspects.items() if value}


def heard(score: Score) -> dict[str, Any]:
    """What music is, aspect -> class."""
    found = features(score)
    return {
        "tempo": tempo_class(found.tempo),
        "mode": found.key.split()[-1] if found.key else "",
        "density": density_class(found.note_density),
        "instruments": frozenset(instruments.labels(score)),
    }


def follows(aspect: str, asked: Any, found: Any) -> bool:
    """Whether music is as asked: of the same class, or with all the instruments named."""
    return asked <= found if aspect == "instruments" else asked == found


def choose(records: Records, count: int, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Up to `count` captions, one of a piece, with what they ask for; of a piece's the one that asks for most."""
    order, chosen = np.random.default_rng(seed).permutation(len(records)), []
    for index in order:
        texts = [each["text"] for each in records[int(index)].conditions.get(TEXT, ())]
        asking = [(text, wanted(found)) for text, found in zip(texts, understand_all(texts), strict=True)]
        text, asked = max(asking, key=lambda each: (len(each[1]), each[0]), default=("", {}))
        if asked:
            chosen.append((text, asked))
        if len(chosen) == count:
            break
    if not chosen:
        raise UserError(
            "no caption of the split asks for a tempo, a mode, a density or instruments; --follow=0 asks for none"
        )
    return chosen


def follow(
    generator: Generator,
    told: Sequence[Order],
    asked: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    guidance: Sequence[float] = (3.0,),
    other: Generator | None = None,
    known: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]] | None = None,
) -> dict[str, Followed]:
    """Makes a piece for each text in each way and listens to them.

    Args:
      generator: of a run that was trained with texts.
      told: an order a text, without guidance; it has the same seed in each way.
      asked: what each text asks for, see `wanted`.
      seed: of the bootstrap over the texts.
      guidance: scales to follow the texts by besides.
      other: of a run without texts, to compare with.
      known: music that was heard before, to compare with; as in `judge`.

    Returns:
      Aspect -> how often it was as asked; the intervals are by bootstrap over the texts.
    """
    silent = [Order(order.settings) for order in told]
    ways = {OTHER: (other, silent)} if other is not None else {}
    ways |= {SILENT: (generator, silent), TOLD: (generator, told)}
    for scale in guidance:
        settings = [dataclasses.replace(order.settings, guidance=scale) for order in told]
        guided = [dataclasses.replace(order, settings=each) for order, each in zip(told, settings, strict=True)]
        ways[f"{TOLD}, guidance {scale:g}"] = generator, guided
    music = {way: [[heard(score)] for score in make(*each, way)] for way, each in ways.items()}
    return judge(asked, {**(known or {}), **music}, seed)


def judge(
    asked: Sequence[Mapping[str, Any]], music: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], seed: int
) -> dict[str, Followed]:
    """Holds what was heard against what was asked for.

    Args:
      asked: what each text asks for, see `wanted`.
      music: way of asking -> for each text, what was heard in each piece of music that answers it, see `heard`.
      seed: of the bootstrap over the texts.
    """
    found = {}
    for aspect in ASPECTS:
        rows = [n for n, each in enumerate(asked) if aspect in each]
        if rows:
            right = {
                way: np.array(
                    [[np.mean([follows(aspect, asked[n][aspect], each[aspect]) for each in pieces[n]])] for n in rows]
                )
                for way, pieces in music.items()
            }
            found[aspect] = Followed(
                len(rows), {way: bootstrap(np.mean, [values], seed, most=1.0) for way, values in right.items()}
            )
    return found


def make(generator: Generator, orders: Sequence[Order], title: str) -> Iterator[Score]:
    """The music of orders, in their order, with a bar of that title."""
    with tqdm(total=100, desc=title, unit="%", disable=None) as bar:
        for piece in generator.generate(orders, lambda share: bar.update(round(100 * share, 1) - bar.n)):
            yield piece.score
