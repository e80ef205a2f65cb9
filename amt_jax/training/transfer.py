"""Starting from another run's weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from amt_jax.data.card import Card
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
    same = {"dropout": 0.0, "remat": False, "dtype": ""}
    old, new = (dataclasses.asdict(dataclasses.replace(c.model, **same)) for c in (source.config, config))
    changes = [f"config.model.{name}: {old[name]!r} -> {new[name]!r}" for name in old if old[name] != new[name]]
    if changes:
        raise UserError(f"config.init={source.path} is another network ({'; '.join(changes)}); use its values")
    params = source.load_model("best")[1]
    # A network without conditions has no "conditioning" at all.
    tables, known = (tree.get("conditioning", {}).get("tables", {}) for tree in (params, fresh))
    if known:
        params["conditioning"] = {
            "tables": {
                name: _match(known[name], tables.get(name), card.conditions[name].values, source, name)
                for name in known
            }
        }
    else:
        params.pop("conditioning", None)
    return params


def _match(fresh: Any, old: Any, values: tuple[str, ...], source: RunFolder, name: str) -> np.ndarray:
    """The fresh table with the rows of null and of every value known to the old one put in. [ids, D]"""
    table = np.array(fresh)
    if old is not None:
        old = np.asarray(old)
        old_ids = {value: i + 1 for i, value in enumerate(source.card.conditions[name].values)}
        table[0] = old[0]
        for index, value in enumerate(values, start=1):
            if value in old_ids:
                table[index] = old[old_ids[value]]
    return table
