#!/usr/bin/env python3
"""Write the weights that `--load-format dummy` makes as a safetensors folder, for programs that only load files.

    dummy_weights.py CONFIG_JSON FOLDER [--seed N] [--repeat]

CONFIG_JSON is any Qwen3 config.json, such as one of config/shapes. The formula is that of engine/dummy_weights.h. With
--repeat a tensor is its first 65,536 elements over and over: much faster to write, to measure how files load. Needs
numpy.
"""
import argparse
import json
import shutil
import struct
from pathlib import Path

import numpy as np

MATRIX_SCALE = np.float32(0.02 * 3**0.5 / 32768)
NORM_SCALE = np.float32(2.0**-18)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
CHUNK = 1 << 22  # elements, a multiple of PERIOD
PERIOD = 1 << 16  # elements, a multiple of 4


def mix(word):
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def tensor_key(seed, name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return mix(np.array([seed ^ value], dtype=np.uint64))


def spread(name, shape):
    """The center and scale of a tensor's elements."""
    if len(shape) == 1:
        return np.float32(1), NORM_SCALE
    if name.endswith((".o_proj.weight", ".down_proj.weight")):
        return np.float32(0), MATRIX_SCALE / np.sqrt(np.float32(shape[1]))
    return np.float32(0), MATRIX_SCALE


def tensor_elements(key, first, count, center, scale):
    """bf16 elements [first, first + count) as uint16; first is a multiple of 4."""
    words = np.arange(first // 4 + 1, (first + count + 3) // 4 + 1, dtype=np.uint64)
    x = mix(key + words * GOLDEN).astype("<u8").view("<i2")[:count].astype(np.float32)
    value = center + x * scale
    bits = value.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")


def mlp_shapes(prefix, hidden, inner):
    yield prefix + "gate_proj.weight", [inner, hidden]
    yield prefix + "up_proj.weight", [inner, hidden]
    yield prefix + "down_proj.weight", [hidden, inner]


def tensor_shapes(config):
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head_dim = config.get("head_dim") or 128
    n_experts, expert_inner = config.get("num_experts", 0), config.get("moe_intermediate_size")
    dense_layers = config.get("mlp_only_layers") or []
    q_columns = config["num_attention_heads"] * head_dim
    kv_columns = config["num_key_value_heads"] * head_dim
    yield "model.embed_tokens.weight", [vocab, hidden]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", [hidden]
        yield prefix + "self_attn.q_proj.weight", [q_columns, hidden]
        yield prefix + "self_attn.k_proj.weight", [kv_columns, hidden]
        yield prefix + "self_attn.v_proj.weight", [kv_columns, hidden]
        yield prefix + "self_attn.q_norm.weight", [head_dim]
        yield prefix + "self_attn.k_norm.weight", [head_dim]
        yield prefix + "self_attn.o_proj.weight", [hidden, q_columns]
        yield prefix + "post_attention_layernorm.weight", [hidden]
        has_experts = layer not in dense_layers and (layer + 1) % config.get("decoder_sparse_step", 1) == 0
        if n_experts and has_experts:
            yield prefix + "mlp.gate.weight", [n_experts, hidden]
            for expert in range(n_experts):
                yield from mlp_shapes(prefix + f"mlp.experts.{expert}.", hidden, expert_inner)
        else:
            yield from mlp_shapes(prefix + "mlp.", hidden, inner)
    yield "model.norm.weight", [hidden]
    if not config.get("tie_word_embeddings"):
        yield "lm_head.weight", [vocab, hidden]


def tensor_chunks(name, shape, seed, repeat):
    key, size = tensor_key(seed, name), int(np.prod(shape))
    center, scale = spread(name, shape)
    if repeat:
        period = tensor_elements(key, 0, min(PERIOD, size), center, scale)
        chunk = np.resize(period, min(CHUNK, size))
    for first in range(0, size, CHUNK):
        count = min(CHUNK, size - first)
        yield chunk[:count] if repeat else tensor_elements(key, first, count, center, scale)


def write(config_path, folder, seed, repeat=False):
    config = json.loads(config_path.read_text())
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensor_shapes(config):
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(config_path, folder / "config.json")
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensor_shapes(config):
            for chunk in tensor_chunks(name, shape, seed, repeat):
                chunk.tofile(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="config.json with the shape")
    parser.add_argument("folder", type=Path, help="made if absent; gets config.json and model.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", action="store_true", help="repeat the beginning of each tensor: fast to write")
    arguments = parser.parse_args()
    write(arguments.config, arguments.folder, arguments.seed, arguments.repeat)


if __name__ == "__main__":
    main()
