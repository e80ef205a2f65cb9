"""TF-IDF: a text as weights of its words, fitted on captions; needs no download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from amt_jax.errors import UserError
from amt_jax.text.cleaning import clean
from amt_jax.text.encoder import TFIDF, Encoder

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

MAX_TERMS = 512  # D at most; the terms that most captions have
# Words that say nothing about music. Others' lists have "few", "many", "full", "no" and "without" too.
_SILENT = (
    "an the this that these those it its he she they them their we us our you your i me my who which what whose s "
    "is are was were be been being has have had do does did can could will would should may might must "
    "of in on at by for from to into with within as and or but if so than then there here when where while "
    "please want like such also about"
)
STOP_WORDS = frozenset(_SILENT.split())
# "A" is a key before "minor" and "sharp", and a word like these before "minor key" and all else.
_ARTICLE = r"a\b(?![#♯♭]|[ -](?:flat|sharp|(?:major|minor)\b(?![ -]key)))"


class TfidfEncoder(Encoder):
    """One state a text, a unit vector. A text of unknown words is empty to it."""

    kind = TFIDF
    name = TFIDF
    length = 1
    pooling = "mean"

    def __init__(self, terms: Mapping[str, float]):
        """`terms`: each with its inverse document frequency, in the order of their columns."""
        self.terms = dict(terms)
        self.width = len(self.terms)
        self._vectorizer = _vectorizer(vocabulary={term: index for index, term in enumerate(self.terms)})
        self._vectorizer.idf_ = np.array(list(self.terms.values()), np.float32)

    @classmethod
    def fit(cls, captions: Sequence[str]) -> TfidfEncoder:
        """Chooses and weighs the terms by captions; UserError if there is not a word in them."""
        vectorizer = _vectorizer(max_features=MAX_TERMS)
        try:
            vectorizer.fit(sorted({clean(caption) for caption in captions}))
        except ValueError:  # "empty vocabulary"
            raise UserError("there is not a word in the captions; name another encoder, or mend the captions") from None
        return cls(dict(zip(vectorizer.get_feature_names_out().tolist(), vectorizer.idf_.tolist(), strict=True)))

    def encode_unique(self, texts: Sequence[str]) -> list[np.ndarray]:
        rows = self._vectorizer.transform(texts).toarray()[:, None]  # [N, 1, D]
        return [row if row.any() else row[:0] for row in rows]

    def content(self) -> Mapping[str, Any]:
        return {"terms": list(self.terms.items())}

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "terms": self.terms}


def _vectorizer(**choices: Any) -> TfidfVectorizer:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise UserError(f"TF-IDF needs {error.name}: pip install 'amt_jax[words]'") from None

    # One letter is a word here, and may be sharp: "c# minor". Without stop words, captions are near each other by what
    # they speak of, not by how their sentences are built; pairs of words would bring those back.
    return TfidfVectorizer(
        token_pattern=rf"(?!{_ARTICLE})\w+[#♯♭]?",
        stop_words=sorted(STOP_WORDS),
        sublinear_tf=True,
        preprocessor=str.casefold,
        dtype=np.float32,
        **choices,
    )
