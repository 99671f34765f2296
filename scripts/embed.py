"""Writes files into a C table that server/embedded.h promises: embed.py OUTPUT.c FILE…

A file is found by its name without folders, and its version is a hash of what it holds.
"""
import hashlib
import pathlib
import sys


def array_of(index, data):
    rows = [",".join(map(str, data[i:i + 32])) for i in range(0, len(data), 32)]
    return f"static const unsigned char file_{index}[] = {{\n" + "".join(row + ",\n" for row in rows) + "0};\n"


def main():
    output, *paths = map(pathlib.Path, sys.argv[1:])
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest()[:24] for path in paths]
    entries = [f'    {{"{path.name}", (const char *)file_{i}, sizeof file_{i} - 1, "{hashes[i]}"}},\n'
               for i, path in enumerate(paths)]
    text = '#include "server/embedded.h"\n\n'
    text += "".join(array_of(i, path.read_bytes()) for i, path in enumerate(paths))
    text += "\nconst struct embedded_file embedded_files[] = {\n" + "".join(entries) + "};\n"
    text += f"const size_t n_embedded_files = {len(paths)};\n"
    output.write_text(text, encoding="ascii")


if __name__ == "__main__":
    main()
