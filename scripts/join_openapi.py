"""Makes one OpenAPI document of its parts: join_openapi.py OUTPUT VERSION PART…

Objects are merged, and what is given twice is an error. The version goes into the info, what x-every-path has into each
path that has none of its own, and GET is described as HEAD too.
"""
import json
import pathlib
import sys


def object_of(members):
    keys = [key for key, _ in members]
    if len(keys) != len(set(keys)):
        raise ValueError(f"a key is given twice: {', '.join(keys)}")
    return dict(members)


def merge(whole, part, place):
    for key, value in part.items():
        if isinstance(value, dict) and isinstance(whole.get(key), dict):
            merge(whole[key], value, f"{place}/{key}")
        elif key in whole:
            raise ValueError(f"{place[1:]}/{key} is given twice")
        else:
            whole[key] = value


def add_to_paths(document):
    every = document.pop("x-every-path")
    for path in document["paths"].values():
        if "get" in path:
            path["head"] = {key: value for key, value in path["get"].items() if key != "operationId"}
        path.update({**every, **path})


def main():
    output, version, *parts = sys.argv[1:]
    document = {}
    for part in parts:
        try:
            merge(document, json.loads(pathlib.Path(part).read_text(encoding="utf-8"), object_pairs_hook=object_of), "")
        except ValueError as error:
            sys.exit(f"{part}: {error}")
    document["info"]["version"] = version
    add_to_paths(document)
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    pathlib.Path(output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
