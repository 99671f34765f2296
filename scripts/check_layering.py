"""Checks who includes whom, and that each header stands alone: check_layering.py [--compiler CC]

The rules are in CONTRIBUTING.md. A header is compiled alone as C17, and as C++17 too when device code reads it."""
import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)

BACKEND = {f"engine/{name}.h" for name in
           ("arena", "backend", "context", "model_shape", "weights", "sampling", "bf16", "error", "log")}
SERVER = {"config/config.h"} | {f"engine/{name}.h" for name in
                                ("engine", "constraint", "grammar", "grammar_cache", "grammar_constraint", "token_trie",
                                 "tokenizer", "sampling", "slice", "stats", "model_config", "model_shape", "error", "log")}
MAIN = {"cpu/cpu_backend.h", "cuda/cuda_backend.h"}

# What a folder may include beside its own files.
ALLOWED = {
    "config": {"engine/error.h"},
    "engine": set(),
    "cpu": BACKEND,
    "cuda": BACKEND,
    "server": SERVER,
}


def layering_faults():
    for folder, allowed in ALLOWED.items():
        for path in sorted((ROOT / folder).glob("*")):
            if path.suffix not in (".c", ".h", ".cu", ".cuh"):
                continue
            name = f"{folder}/{path.name}"
            for included in INCLUDE.findall(path.read_text()):
                own = included.startswith(f"{folder}/")
                if not own and included not in (allowed | MAIN if name == "server/main.c" else allowed):
                    yield f'{name} must not include "{included}"'
                elif not (ROOT / included).exists():
                    yield f'{name} includes "{included}", which does not exist'
            if folder == "engine" and re.search(r"#\s*include\s*<(cuda|cublas|nccl|microhttpd)", path.read_text()):
                yield f"{name} must know neither CUDA nor HTTP"
            if folder == "server" and re.search(r"#\s*include\s*<(cuda|cublas|nccl)", path.read_text()):
                yield f"{name} must not know CUDA"


def headers_of_device_code():
    """Every header of ours that a .cu or .cuh reaches."""
    seen, queue = set(), [*(ROOT / "cuda").glob("*.cu"), *(ROOT / "cuda").glob("*.cuh")]
    while queue:
        for included in INCLUDE.findall(queue.pop().read_text()):
            path = ROOT / included
            if path.suffix == ".h" and included not in seen and path.exists():
                seen.add(included)
                queue.append(path)
    return seen


def library_flags():
    packages = ["libcjson", "libmicrohttpd", "libpcre2-8", "libutf8proc"]
    result = subprocess.run(["pkg-config", "--cflags", *packages], capture_output=True, text=True)
    return result.stdout.split() if result.returncode == 0 else []


def compile_alone(header, compiler, language, flags):
    command = [compiler, "-x", language, f"-std={'c17' if language == 'c' else 'c++17'}", "-D_GNU_SOURCE",
               '-DQUERN_VERSION=""', "-DPCRE2_CODE_UNIT_WIDTH=8", "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
               f"-I{ROOT}", *flags, "-include", header, os.devnull]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 0:
        return None
    return f"{header} does not compile alone as {'C17' if language == 'c' else 'C++17'}:\n{result.stderr}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiler", default="cc")
    arguments = parser.parse_args()
    faults = list(layering_faults())
    flags = library_flags()
    jobs = [(f"{folder}/{path.name}", arguments.compiler, "c", flags)
            for folder in ALLOWED for path in sorted((ROOT / folder).glob("*.h"))]
    if shutil.which("c++"):
        jobs += [(header, "c++", "c++", flags) for header in sorted(headers_of_device_code())]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        faults += [fault for fault in pool.map(lambda job: compile_alone(*job), jobs) if fault]
    for fault in faults:
        print(fault)
    print(f"{len(jobs)} headers compiled alone, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
