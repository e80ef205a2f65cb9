"""What is chosen about the decoder."""

from __future__ import annotations

import dataclasses

from amt_jax.model.conditioning import ConditionConfig, prefix_slots


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes and choices of the decoder that a person makes.

    Attributes:
      num_layers: L.
      num_heads: N; d_model / num_heads is the head dim.
      num_kv_heads: key/value heads; fewer than num_heads is grouped-query attention (Ainslie et al. 2023).
      d_model: D.
      d_ff: F, hidden width of the feed-forward layers.
      dropout: rate on embeddings and on both residual branches while training.
      norm: "layernorm" or "rmsnorm" (Zhang & Sennrich 2019), before each branch and at the end.
      activation: "gelu" or "swiglu" (Shazeer 2020).
      qk_norm: RMS-normalise queries and keys a head (Henry et al. 2020).
      bias: biases in linear layers.
      rope_theta: base of the rotary frequencies.
      clock: what rotary positions count: "tokens", or "moments" (frames, onsets), see model.moments.
      history: how many moments back the chords stand that each token is told, besides its own, see model.moments; with
        () it is told nothing.
      remat: what the backward pass computes once more instead of keeping it: "none", all but products and attention
        ("dots"), each layer as a whole ("full").
      dtype: compute type, "float32" or "bfloat16"; parameters are float32.
    """

    num_layers: int
    num_heads: int
    num_kv_heads: int
    d_model: int
    d_ff: int
    dropout: float
    norm: str
    activation: str
    qk_norm: bool
    bias: bool
    rope_theta: float
    clock: str
    history: tuple[int, ...]
    remat: str
    dtype: str


@dataclasses.dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    """The decoder for a dataset.

    Attributes:
      vocab_size: V, ids a stream.
      num_streams: K, token streams a time step.
      context_length: the longest window it is trained on, in tokens.
      conditions: the table of conditions.
      pitches: of each id, the pitch that it sounds, from 0, or -1; for a clock of moments, or a history.
      moments: of each id, whether a moment begins with it; for the same.
      quantized: whether kernels of linear layers are int8, see model.quantization; not for training.
    """

    vocab_size: int
    num_streams: int
    context_length: int
    conditions: tuple[ConditionConfig, ...] = ()
    pitches: tuple[int, ...] = ()
    moments: tuple[bool, ...] = ()
    quantized: bool = False

    def __post_init__(self):
        if self.d_model % self.num_heads or (self.d_model // self.num_heads) % 2:
            raise ValueError(f"d_model {self.d_model} does not split into {self.num_heads} heads of even size")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.norm not in ("layernorm", "rmsnorm"):
            raise ValueError(f"norm is layernorm or rmsnorm, not {self.norm!r}")
        if self.activation not in ("gelu", "swiglu"):
            raise ValueError(f"activation is gelu or swiglu, not {self.activation!r}")
        if self.clock not in ("tokens", "moments"):
            raise ValueError(f"clock is tokens or moments, not {self.clock!r}")
        if any(lag < 1 for lag in self.history):
            raise ValueError(f"history is {self.history}; moments are counted back from 1")
        if self.hears and not len(self.pitches) == len(self.moments) == self.vocab_size:
            raise ValueError("a clock of moments, or a history, needs to know the pitches and moments of all ids")
        if self.remat not in ("none", "dots", "full"):
            raise ValueError(f"remat is none, dots or full, not {self.remat!r}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is float32 or bfloat16, not {self.dtype!r}")

    @property
    def head_dim(self) -> int:
        return self.d_model // self.num_heads

    @property
    def hears(self) -> bool:
        """Whether it needs to know of moments."""
        return bool(self.history) or self.clock == "moments"

    @property
    def farthest(self) -> int:
        """The lag of the farthest moment that a token is told of."""
        return max(self.history, default=0)

    @property
    def num_pitches(self) -> int:
        return 1 + max(self.pitches)

    @property
    def attends_to_sources(self) -> bool:
        return any(condition.way == "cross" for condition in self.conditions)

    @property
    def prefix_slots(self) -> int:
        """Cache slots before a piece's first token."""
        return prefix_slots(self.conditions, 1)
