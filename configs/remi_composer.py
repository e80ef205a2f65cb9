"""A REMI decoder conditioned on composers, 25.4 M parameters, 8,192 tokens of context.

Command:   python -m data_prep.midi --input=MIDI --output=DATASET --tokenizer=remi
           python -m amt_jax.train --config=remi_composer --config.dataset=DATASET --run=RUN
Hardware:  one GPU with 24 GB or more; on a smaller one --config.batch_size=1 --config.accumulation=16.
Expected:  the loss falls below that of guessing, ln(419) = 6.04 nats a token, within the warm-up, and below 2 with
           enough music; the pipeline this follows needed 18 minutes an epoch of 10,841 pieces on one H200.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The experiment."""
    config = ConfigDict()
    config.dataset = ""  # folder made by data_prep
    config.init = ""  # run folder whose best weights to start from; empty: random weights
    config.seed = 0
    config.context = 8192  # tokens a row
    config.lengths = ""  # shorter rows to begin with: "1024:0.5,4096:0.3", length:share of the steps; empty: none
    config.batch_size = 2  # rows a microbatch, over all devices
    config.accumulation = 8  # microbatches a step
    config.steps = 0  # optimizer steps; 0: see epochs
    config.epochs = 500.0  # passes over the training split; 0: see steps
    config.label_smoothing = 0.1  # share of the target spread over the vocabulary
    config.token_dropout = 0.01  # share of input tokens replaced by PAD
    config.ema = 0.0  # decay of the average of weights that is validated and used, 0.999 or so; 0: none is kept
    config.calibrate = False  # divide logits by the temperature that suits the validation split best
    config.validate_every = 0  # steps; 0: at the end of every epoch
    config.save_every = 0  # steps; 0: at the end of every epoch
    config.save_minutes = 30.0  # minutes after which to save at the latest; 0: never for that reason
    config.keep = 3  # newest checkpoints kept, besides the best
    config.log_every = 20  # steps a line of metrics.jsonl

    config.model = ConfigDict()
    config.model.num_layers = 8
    config.model.num_heads = 8
    config.model.num_kv_heads = 8  # fewer than num_heads: grouped-query attention
    config.model.d_model = 512  # width of the residual stream
    config.model.d_ff = 2048  # width inside the feed-forward layers
    config.model.dropout = 0.1  # rate on embeddings and residual branches
    config.model.norm = "layernorm"  # layernorm or rmsnorm
    config.model.activation = "gelu"  # gelu or swiglu
    config.model.qk_norm = False  # normalise queries and keys
    config.model.bias = True  # in linear layers
    config.model.rope_theta = 10_000.0  # base of the rotary frequencies
    config.model.clock = "tokens"  # what positions count; moments: onsets
    config.model.history = ()  # (1, 2): each token is told the pitches of its moment and of those 1 and 2 before
    config.model.remat = "full"  # none, dots or full: recomputed backwards, for less memory (bench/results/remat.md)
    config.model.dtype = "auto"  # of computing: bfloat16 on accelerators, float32 on a CPU

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # or muon, for the matrices inside layers
    config.optimizer.learning_rate = 5e-4  # the peak
    config.optimizer.warmup = 0.05  # fraction of all steps
    config.optimizer.final = 0.0  # last learning rate, fraction of the peak
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.01  # not on norms, biases and embeddings
    config.optimizer.clip_norm = 1.0  # largest global norm of the gradients
    config.optimizer.layer_decay = 1.0  # factor on the learning rate from each layer to the one below

    # Ways in: add to each token's embedding, prefix (a slot before the piece), cross (attended to in every layer); a
    # factor on the embedding, small where several are added to the tokens' own; the probability of null, a piece and
    # step. What the dataset lacks is left out.
    config.conditions = ConfigDict()
    for name, way, scale, dropout in (
        ("composer", "add", 0.25, 0.6),
        ("genre", "add", 0.25, 0.3),
        ("mood", "add", 0.25, 0.3),
        ("instruments", "add", 0.25, 0.3),
        ("tempo", "add", 0.25, 0.3),
        ("density", "add", 0.25, 0.3),
        ("text", "cross", 1.0, 0.2),
        ("semantic", "prefix", 1.0, 0.2),
    ):
        config.conditions[name] = ConfigDict({"way": way, "scale": scale, "dropout": dropout})
    config.unconditional = 0.0  # probability of all null at once; with one condition its dropout does as much

    config.augmentation = ConfigDict()
    config.augmentation.transpose = 0  # semitones up or down, at most
    config.augmentation.transposed = 1.0  # share of the pieces that are
    config.augmentation.tempo = 0  # steps of the tempo vocabulary, at most; not where what is told depends on it
    config.augmentation.velocity = 0  # steps of the velocity vocabulary, at most

    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices that share a batch; -1: all that are left
    config.mesh.fsdp = 1  # devices that share a batch and the parameters
    config.mesh.tensor = 1  # devices that share each layer
    config.mesh.sequence = 1  # devices that share a row
    return config
