#!/usr/bin/env python3
"""Compare quern's logits with transformers' at a published shape, with the same random weights, in one run.

    compare_transformers.py --dump build/tests/model/dump_logits --shape config/shapes/0.6b.json [--backend cuda]

Both get the same tokens: one prompt, then teacher-forced decode steps. transformers runs in float32 (the truth) and in
bf16 (what bf16 costs anybody). Prints the relative error ||a - b|| / ||b|| over all logits, the worst step, and how
often the largest logit is the same. Exits with 1 when an error is over --limit. Needs torch and transformers.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
import dummy_weights  # noqa: E402


def signed(word):
    return word - 2**64 if word >= 2**63 else word


def mix(word):
    """dummy_weights.mix on int64 tensors: a logical shift is an arithmetic one with its sign bits cleared."""
    word = (word ^ ((word >> 30) & (2**34 - 1))) * signed(0xBF58476D1CE4E5B9)
    word = (word ^ ((word >> 27) & (2**37 - 1))) * signed(0x94D049BB133111EB)
    return word ^ ((word >> 31) & (2**33 - 1))


def fill(parameter, key, center, scale):
    flat, chunk = parameter.data.view(-1), 1 << 26
    for first in range(0, flat.numel(), chunk):
        count = min(chunk, flat.numel() - first)
        words = torch.arange(first // 4 + 1, (first + count + 3) // 4 + 1, device=flat.device)
        bits = mix(signed(key) + words * signed(int(dummy_weights.GOLDEN)))
        x = bits.view(torch.int16)[:count].float()
        value = center + x * scale
        flat[first:first + count] = value.to(torch.bfloat16).to(flat.dtype)


def make_model(shape, device):
    """Random weights as quern makes them, in float32 holding bf16 values."""
    config = Qwen3Config(**json.loads(Path(shape).read_text()), attn_implementation="eager")
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config)
    model = model.to_empty(device=device).float().eval()
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    shapes = dict(dummy_weights.tensor_shapes(json.loads(Path(shape).read_text())))
    for name, parameter in model.named_parameters():
        assert list(parameter.shape) == shapes[name], name
        center, scale = dummy_weights.spread(name, shapes[name])
        fill(parameter, int(dummy_weights.tensor_key(0, name)[0]), float(center), float(scale))
    return model


def reference(model, tokens, n_prompt):
    with torch.no_grad():
        hidden = model.model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).last_hidden_state
        return model.lm_head(hidden[0, n_prompt - 1:]).float().cpu().numpy()


def report(name, got, truth):
    errors = np.linalg.norm(got - truth, axis=1) / np.linalg.norm(truth, axis=1)
    whole = np.linalg.norm(got - truth) / np.linalg.norm(truth)
    same = np.mean(got.argmax(1) == truth.argmax(1))
    print(f"{name:28s} relative error {whole:.5f}  worst step {errors.max():.5f}  same argmax {same:.3f}", flush=True)
    return whole


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dump", required=True, help="the program built from tests/model/dump_logits.c")
    parser.add_argument("--shape", required=True, help="config.json of the shape")
    parser.add_argument("--backend", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--prompt-tokens", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--limit", type=float, default=0.02)
    a = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"

    vocab = json.loads(Path(a.shape).read_text())["vocab_size"]
    tokens = np.random.default_rng(1).integers(0, vocab, a.prompt_tokens + a.steps).astype(np.int32)
    with tempfile.TemporaryDirectory() as folder:
        ids, out = f"{folder}/tokens", f"{folder}/logits"
        tokens.tofile(ids)
        names = subprocess.run([a.dump, a.backend, a.shape, ids, str(a.prompt_tokens), out], check=True,
                               stdout=subprocess.PIPE, text=True).stdout.split("\n")[:-1]
        ours = np.fromfile(out, np.float32).reshape(len(names), 1 + a.steps, vocab)

    model = make_model(a.shape, device)
    truth = reference(model, tokens.tolist(), a.prompt_tokens)
    print(f"{a.shape}: {a.prompt_tokens} prompt tokens, {a.steps} decode steps, against transformers in float32")
    failed = [name for name, logits in zip(names, ours) if not report(f"quern {name}", logits, truth) < a.limit]
    report("transformers bf16", reference(model.bfloat16(), tokens.tolist(), a.prompt_tokens), truth)
    if failed:
        sys.exit(f"over {a.limit}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
