#!/usr/bin/env python3
"""A plain transformers decode loop as a yardstick for quern: random bf16 weights, one sequence, greedy.

    bench_transformers.py CONFIG_JSON [--prompt-tokens 128] [--new-tokens 64] [--seconds 30]

Prints one JSON object: the median step, and the speed of a large bf16 product by torch in the same run. Needs torch
with a GPU, and transformers; exits with 3 when they are not there.
"""
import argparse
import json
import statistics
import sys
import time
from pathlib import Path


def seconds_of(torch, work):
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def product_tflops(torch, n=8192, n_products=10):
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    seconds = min(seconds_of(torch, lambda: [torch.mm(a, b) for _ in range(n_products)]) for _ in range(4))
    return 2 * n**3 * n_products / seconds / 1e12


def decode_steps(torch, model, a, vocab):
    """Seconds of each decode step, until --new-tokens or --seconds are over."""
    tokens = torch.randint(0, vocab, (1, a.prompt_tokens), device="cuda")
    steps, until = [], time.monotonic() + a.seconds
    with torch.inference_mode():
        result = model(tokens, use_cache=True)
        for _ in range(a.new_tokens):
            token = result.logits[:, -1:].argmax(-1)

            def step():
                nonlocal result
                result = model(token, past_key_values=result.past_key_values, use_cache=True)
                result.logits[:, -1].argmax(-1).item()

            steps.append(seconds_of(torch, step))
            if time.monotonic() > until:
                break
    return steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30)
    a = parser.parse_args()
    try:
        import torch
        import transformers
    except ImportError as missing:
        print(f"needs torch and transformers: {missing}", file=sys.stderr)
        sys.exit(3)
    if not torch.cuda.is_available():
        print("torch sees no GPU", file=sys.stderr)
        sys.exit(3)
    config = transformers.Qwen3Config(**json.loads(a.config.read_text()))
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = transformers.Qwen3ForCausalLM(config).eval()
    steps = decode_steps(torch, model, a, config.vocab_size)
    step_s = statistics.median(steps[len(steps) // 4:])  # the first ones still choose kernels
    print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__, "n_steps": len(steps),
                      "step_ms": step_s * 1e3, "tokens_per_s": 1 / step_s, "product_tflops": product_tflops(torch)}))


if __name__ == "__main__":
    main()
