"""Floating-point operations of training, by formula; 2 a multiply-add, matrix products only.

A layer multiplies each token with its kernels, D x (N + 2K)H for queries, keys and values, D x D after attention, and
two or three of D x F; at the end stand the streams' K x V x D tied embeddings. Every product costs twice its kernel's
size a token forwards, and backwards twice that: once for the gradient of its input, once for its kernel's (Kaplan et
al. 2020, section 2.1: 6N a token). A history of moments is one product more, whose input needs no gradient. Attention
has no kernel: each pair of a query and a key that it sees costs 2D for the score and 2D for the value, T(T + 1) / 2
pairs a row of T tokens, and again twice that backwards.

B rows   T tokens   L layers   D model   F feed-forward   V vocabulary   N, K heads of H
"""

from __future__ import annotations

from amt_jax.model.attention import blockwise_pairs
from amt_jax.model.config import TransformerConfig
from amt_jax.model.splash import splash_pairs


def kernel_sizes(config: TransformerConfig) -> dict[str, int]:
    """Numbers in a layer's kernels, by name, in the history's and in the tied embeddings, which stand once."""
    products = 3 if config.activation == "swiglu" else 2
    heads = config.num_heads + 2 * config.num_kv_heads
    return {
        "qkv": config.d_model * heads * config.head_dim,
        "out": config.d_model**2,
        "up": (products - 1) * config.d_model * config.d_ff,
        "down": config.d_model * config.d_ff,
        "history": (1 + len(config.history)) * config.num_pitches * config.d_model if config.history else 0,
        "embedding": config.num_streams * config.vocab_size * config.d_model,
    }


def forward_flops(config: TransformerConfig, rows: int) -> float:
    """Of `rows` whole rows, packed with one piece each, to their logits."""
    length = config.context_length
    sizes = kernel_sizes(config)
    once = sizes.pop("embedding") + sizes.pop("history")
    dense = 2 * rows * length * (config.num_layers * sum(sizes.values()) + once)
    return dense + config.num_layers * _attention(config, rows, length * (length + 1) // 2, products=2)


def model_flops(config: TransformerConfig, rows: int) -> float:
    """What a training step of `rows` rows has to compute at least: the numerator of model FLOPs utilisation.

    What is computed twice to save memory does not count (Chowdhery et al. 2022, appendix B).
    """
    given = 2 * rows * config.context_length * kernel_sizes(config)["history"]
    return 3 * forward_flops(config, rows) - given


def executed_flops(config: TransformerConfig, rows: int, *, splash: bool = False) -> float:
    """What a training step of `rows` rows does compute with blockwise attention, or with splash attention.

    Beyond `model_flops`: the masked pairs in the blocks along the diagonal, scores once more in the backward pass, the
    gradient of embeddings looked up, which is a product too, and under the `remat` "full" a layer's forward pass but
    for its last product, which nothing needs twice.
    """
    sizes = kernel_sizes(config)
    embedding, history, down = sizes.pop("embedding"), sizes.pop("history"), sizes["down"]
    again = config.remat == "full"
    layer = 3 * sum(sizes.values()) + (sum(sizes.values()) - down if again else 0)
    dense = 2 * rows * config.context_length * (config.num_layers * layer + 2 * history + 4 * embedding)
    # Forwards scores and values; backwards scores, gradients of weights, queries, keys and values. Recomputed, the
    # values are new and the scores serve the backward pass too.
    products, pairs = 8 if again else 7, blockwise_pairs(config.context_length)
    if splash:
        # One backward kernel for queries, one for keys and values: both compute scores and gradients of weights. The
        # forward kernel is recomputed whole.
        products, pairs = 11 if again else 9, splash_pairs(config.context_length)
    return dense + config.num_layers * _attention(config, rows, pairs, products)


def _attention(config: TransformerConfig, rows: int, pairs: int, products: int) -> float:
    """`products` products of a layer's attention over `pairs` pairs of query and key a row, all heads."""
    return 2.0 * products * rows * pairs * config.d_model
