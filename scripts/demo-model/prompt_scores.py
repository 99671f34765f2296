"""What transformers says that each token of the recorded prompts is worth: prompt_scores.py --model DIR --golden FILE --out FILE

For evaluation harnesses, which sum such numbers; golden.json has those of the answers. Float32 on the bf16 weights.
"""
import argparse
import json

import torch
from transformers import AutoModelForCausalLM


def scores(model, ids):
    """Of each token but the first."""
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
    return logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--model", "--golden", "--out"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32, attn_implementation="eager").eval()
    with open(options.golden, encoding="utf-8") as file:
        cases = json.load(file)
    rows = {case["name"]: [round(score, 5) for score in scores(model, case["prompt_ids"])] for case in cases}
    with open(options.out, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()) + "\n}\n")


if __name__ == "__main__":
    main()
