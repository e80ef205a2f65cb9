"""The PyTorch side of the speed benches: the same decoder in plain PyTorch, driven line by line over stdin.

Run by the benches in an environment of its own that has torch and transformers. Each line is a json command, each
answer a json line, so that both sides stay loaded and take turns.
"""

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"


class Layer(nn.Module):
    def __init__(self, d_model, num_heads, d_ff):
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)

    def forward(self, x, sin, cos):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, sin, cos), rotate(k, sin, cos)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.feed_forward_norm(x)), approximate="tanh"))


def rotate(x, sin, cos):
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Decoder(nn.Module):
    def __init__(self, vocab_size, num_layers, num_heads, d_model, d_ff):
        super().__init__()
        self.d_model, self.head_dim = d_model, d_model // num_heads
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.layers = nn.ModuleList([Layer(d_model, num_heads, d_ff) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(d_model)

    def forward(self, tokens):
        frequencies = 10000.0 ** (-torch.arange(0, self.head_dim, 2, device=tokens.device) / self.head_dim)
        angles = torch.arange(tokens.shape[1], device=tokens.device)[:, None] * frequencies
        sin, cos = angles.sin(), angles.cos()
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, sin, cos)
        return F.linear(self.norm(x), self.embedding.weight) * self.d_model**-0.5


def serve_training(batch, length, **sizes):
    """Answers {"steps": n} with the seconds of n train steps: forward, backward, clip, AdamW.

    On a GPU in bfloat16 with float32 weights, compiled, with fused AdamW; on a CPU eagerly in float32.
    """
    model = Decoder(**sizes).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01, fused=GPU)
    tokens = torch.randint(0, sizes["vocab_size"], (batch, length + 1), device=DEVICE)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()

    def loss_of(inputs, targets):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=GPU):
            logits = model(inputs)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets, label_smoothing=0.1)

    if GPU:
        loss_of = torch.compile(loss_of)
    yield {"parameters": sum(p.numel() for p in model.parameters()), "version": torch.__version__}
    while True:
        command = yield from receive()
        start = time.perf_counter()
        for _ in range(command["steps"]):
            loss = loss_of(inputs, targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if not GPU:
                loss.item()
        value = loss.item()
        memory = torch.cuda.max_memory_allocated() if GPU else 0
        yield {"seconds": time.perf_counter() - start, "loss": value, "memory": memory}


def serve_generation(vocab_size, num_layers, num_heads, d_model, d_ff, context):
    """Answers {"batch", "prompt", "tokens", ...} with the seconds of one `transformers` generate call with a cache."""
    import transformers

    # Llama is transformers' decoder with rotary positions; its gated feed-forward is cut to the same parameter count.
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=d_model,
        intermediate_size=d_ff * 2 // 3,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config).eval().to(DEVICE, torch.bfloat16 if GPU else torch.float32)
    # The cache of a fixed size is what lets transformers compile the decoding step, which it does on GPUs.
    cache = {"cache_implementation": "static"} if GPU else {}
    yield {
        "parameters": model.num_parameters(),
        "version": f"{torch.__version__}, transformers {transformers.__version__}",
    }
    while True:
        command = yield from receive()
        prompt = torch.randint(3, vocab_size, (command["batch"], command["prompt"]), device=DEVICE)
        start = time.perf_counter()
        with torch.inference_mode():
            ids = model.generate(
                prompt,
                do_sample=True,
                temperature=command["temperature"],
                top_k=command["top_k"],
                top_p=command["top_p"],
                min_new_tokens=command["tokens"],
                max_new_tokens=command["tokens"],
                **cache,
            )
        if GPU:
            torch.cuda.synchronize()
        assert ids.shape[1] == command["prompt"] + command["tokens"]
        yield {"seconds": time.perf_counter() - start}


def receive():
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    return json.loads(line)
    yield  # makes this a generator, for `yield from`


def main():
    setup = receive_first()
    torch.set_num_threads(setup.pop("threads"))
    torch.manual_seed(0)
    kind = setup.pop("kind")
    for answer in {"training": serve_training, "generation": serve_generation}[kind](**setup):
        print(json.dumps(answer), flush=True)


def receive_first():
    return json.loads(sys.stdin.readline())


if __name__ == "__main__":
    main()
