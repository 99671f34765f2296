"""Where values that one JSON schema describes do not fit another one."""
import functools

ANY, NUMBERS = "any", ("integer", "number")


class Schema:
    """One alternative of a schema: a kind, and what it says of values of that kind."""

    def __init__(self, root, keywords, kind, value=None):
        self.root, self.keywords, self.kind, self.value = root, keywords, kind, value

    @property
    def properties(self):
        return self.keywords.get("properties", {})

    def at(self, keyword):
        part = self.keywords.get(keyword)
        return alternatives(self.root, part) if isinstance(part, dict) else None

    def member(self, name):
        return alternatives(self.root, self.properties[name])


def joined(parts):
    whole = {}
    for part in parts:
        for key, value in part.items():
            if key == "properties":
                members = whole.setdefault(key, {})
                for name, member in value.items():
                    members[name] = {**members.get(name, {}), **member}
            elif key == "required":
                whole[key] = [*whole.get(key, []), *value]
            else:
                whole[key] = value
    return whole


def resolved(root, schema):
    while "$ref" in schema:
        found = functools.reduce(lambda part, key: part[key], schema["$ref"][2:].split("/"), root)
        schema = {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
    if "allOf" in schema:
        rest = {key: value for key, value in schema.items() if key != "allOf"}
        schema = joined([*(resolved(root, part) for part in schema["allOf"]), rest])
    return schema


def alternatives(root, schema):
    schema = resolved(root, schema)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return [one for part in schema[key] for one in alternatives(root, part)]
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return [Schema(root, schema, "null" if value is None else "value", value) for value in values]
    kinds = schema.get("type", ANY)
    return [Schema(root, schema, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)]


def kind_of(value):
    return {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}[type(value)]


def comparable(one, other):
    if other.kind == ANY or (one.kind == "integer" and other.kind == "number"):
        return True
    if one.kind == "value":
        kind = kind_of(one.value)
        return other.value == one.value or other.kind == kind or (kind in NUMBERS and other.kind in NUMBERS)
    return one.kind == other.kind and other.kind != "value"


def split(one):
    """An object whose type or role is one of several words is as many objects."""
    for name in ("type", "role"):
        words = one.properties.get(name, {}).get("enum", ())
        if len(words) > 1:
            return [Schema(one.root, {**one.keywords, "properties": {**one.properties, name: {"const": word}}}, one.kind)
                    for word in words]
    return [one]


def contradiction(one, other):
    """The member, such as type or role, by which two objects are different things; None: they are not."""
    for name in sorted(one.properties.keys() & other.properties.keys()):
        ours, theirs = one.member(name), other.member(name)
        if all(part.kind == "value" for part in ours) and not any(comparable(a, b) for a in ours for b in theirs):
            return name
    return None


def misfits(ones, others, place="", seen=()):
    """The places where what `ones` describe is not described by `others`: a member that those do not have, one that they
    require, ending with "?", or a kind or value, behind ":"."""
    found = set()
    for one in [part for one in ones for part in split(one)]:
        candidates = [other for other in others if comparable(one, other)]
        if not candidates:
            word = repr(one.value) if one.kind == "value" else one.kind
            found.add(f"{place}: {word}")
            continue
        if one.kind == "object":
            names = [contradiction(one, other) for other in candidates]
            candidates = [other for other, name in zip(candidates, names) if name is None]
            if not candidates:
                found |= {f"{place}.{names[0]}: {part.value!r}" for part in one.member(names[0])}
                continue
        found |= min((parts(one, other, place, seen) for other in candidates), key=len)
    return found


def parts(one, other, place, seen):
    pair = (id(one.keywords), id(other.keywords))
    if other.kind == ANY or pair in seen:
        return set()
    seen, found = (*seen, pair), set()
    if one.kind == "object":
        for name in one.properties:
            if name in other.properties:
                found |= misfits(one.member(name), other.member(name), f"{place}.{name}", seen)
            elif other.properties or not other.at("additionalProperties"):
                found.add(f"{place}.{name}")
        required = set(other.keywords.get("required", ())) - set(one.keywords.get("required", ()))
        found |= {f"{place}.{name}?" for name in required}
    for keyword, mark in (("items", "[]"), ("additionalProperties", ".*")):
        of_one, of_other = one.at(keyword), other.at(keyword)
        if of_one and of_other:
            found |= misfits(of_one, of_other, place + mark, seen)
    return found
