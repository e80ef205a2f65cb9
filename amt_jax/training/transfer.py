"""Starting from another run's weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from amt_jax.data.card import Card, Vocabulary
from amt_jax.errors import UserError
from amt_jax.training.config import TrainConfig
from amt_jax.training.run_folder import RunFolder


def transfer(source: RunFolder, config: TrainConfig, card: Card, fresh: Any) -> Any:
    """Another run's best weights for this dataset: conditions matched by the names of their values.

    Args:
      source: the run to start from; its vocabulary and network must be the same.
      config: of the new run.
      card: of the new run's dataset.
      fresh: initial parameters, kept for condition values that the source does not know.
    """
    if source.card.spec != card.spec:
        raise UserError(
            f"config.init={source.path} has the vocabulary {source.card.spec.name} of {source.card.spec.vocab_size} "
            f"ids, dataset {config.dataset} has {card.spec.name} of {card.spec.vocab_size}; "
            f"prepare the dataset with that run's tokenizer"
        )
    # These may differ: they do not change the shapes of weights or their meaning.
    same = {"dropout": 0.0, "remat": "", "dtype": ""}
    old, new = (dataclasses.asdict(dataclasses.replace(c.model, **same)) for c in (source.config, config))
    changes = [f"config.model.{name}: {old[name]!r} -> {new[name]!r}" for name in old if old[name] != new[name]]
    if changes:
        raise UserError(f"config.init={source.path} is another network ({'; '.join(changes)}); use its values")
    params = source.load_model("best")[1]
    # A network without conditions has no "conditioning" at all, and one without sources no attention to them.
    tables, known = (tree.get("conditioning", {}).get("tables", {}) for tree in (params, fresh))
    matched = {
        name: _match(known[name], tables.get(name), card.conditions[name], source.card.conditions.get(name))
        for name in known
    }
    merged = _merge(fresh, params)
    if known:
        merged["conditioning"] = {"tables": matched}
    return merged


def _merge(fresh: Any, old: Any) -> Any:
    """The old parameters for all of the fresh ones that they have."""
    if isinstance(fresh, dict):
        return {name: _merge(value, old[name]) if name in old else value for name, value in fresh.items()}
    return old


def _match(fresh: Any, old: Any, new_values: Vocabulary, old_values: Vocabulary | None) -> np.ndarray:
    """The fresh table with the rows of null and of all that is known to the old one put in. [W, D]"""
    table = np.array(fresh)
    if old is None or old_values.kind != new_values.kind:
        return table
    old = np.asarray(old)
    table[0] = old[0]
    if (old_values.digest, old_values.knots) != (new_values.digest, new_values.knots):
        return table
    if not new_values.values:
        return old
    for value in new_values.values:
        if value in old_values.values:
            table[new_values.id(value)] = old[old_values.id(value)]
    return table
