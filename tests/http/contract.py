"""Holds what the server answers against /openapi.json: status, headers, content type, body, and the data of each event.

Connections of http.client, raw sockets and the transports of the SDKs are watched here; the harness hands them out. A
fault is raised where it is seen, and kept for the end of the server too: a thread or an SDK may swallow the first.
"""
import contextlib
import functools
import http.client
import importlib
import json
import os
import re
import urllib.parse

import jsonschema_rs

# What is served, but not described yet.
NOT_YET = ()
# What libmicrohttpd answers itself, in HTML and without X-Request-Id: no request reaches the server.
NOT_HTTP = {400, 413, 414, 431, 505}


class Contract:
    def __init__(self, document):
        self.document = document
        self.faults = []
        self.n_checked = 0
        self.templates = [(re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(path)) + r"\Z"), path)
                          for path in document["paths"] if "{" in path]

    def path_of(self, target):
        """The path of the document that a request target means, None: no such."""
        path = target.partition("?")[0]
        if path in self.document["paths"]:
            return path
        path = urllib.parse.unquote(path)
        # Of several the longest: it has the least in its parameters.
        found = [name for pattern, name in self.templates if pattern.match(path)]
        return max(found, key=len, default=path if path in self.document["paths"] else None)

    def resolve(self, item):
        while "$ref" in item:
            item = functools.reduce(lambda part, key: part[key], item["$ref"][2:].split("/"), self.document)
        return item

    @functools.cache
    def responses(self, path, method):
        """Of an operation that is described, by status; of all others what routes.c says of them."""
        shared = self.document["components"]["responses"]
        if path is None:
            others = {"401": shared["Unauthorized"], "404": shared["NotFound"]}
            return {**others, "204": shared["Preflight"]} if method == "OPTIONS" else others
        operations = self.document["paths"][path]
        responses = operations.get(method.lower(), operations["options"])["responses"]
        return {status: self.resolve(response) for status, response in responses.items()
                if method.lower() in operations or status != "204"}

    @functools.cache
    def validator(self, path, method, status, kind):
        schema = self.responses(path, method)[status]["content"][kind]["schema"]
        return jsonschema_rs.Draft202012Validator({"allOf": [schema], "components": self.document["components"]})

    def check(self, method, target, status, headers, body, complete=True):
        """complete: body is all of it; otherwise only whole events are looked at."""
        try:
            self.find_fault(method, target, status, headers, body, complete)
        except AssertionError as fault:
            self.faults.append(str(fault))
            raise
        self.n_checked += 1

    def find_fault(self, method, target, status, headers, body, complete):
        path = self.path_of(target)
        if path is None and target.startswith(NOT_YET):
            return
        what = f"{method} {target[:200]} -> {status}"
        responses = self.responses(path, method)
        assert str(status) in responses, f"{what}: the status is not described, but {', '.join(responses)}"
        response = responses[str(status)]
        for name, header in response.get("headers", {}).items():
            required = self.resolve(header).get("required")
            assert not required or headers.get(name) is not None, f"{what}: the header {name} is missing"
        content = response.get("content", {})
        kind = (headers.get("Content-Type") or "").partition(";")[0]
        assert kind in content or (not kind and not content), f"{what}: is {kind}, but described as {list(content)}"
        if method == "HEAD" or not content:
            assert not body, f"{what}: has a body: {body[:200]}"
            return
        if kind == "text/event-stream":
            values = data_of(body, complete)
        elif not complete:
            return
        else:
            values = [json.loads(body) if kind == "application/json" else body.decode()]
        validator = self.validator(path, method, str(status), kind)
        for value in values:
            for error in validator.iter_errors(value):
                error = deepest(error)
                place = "/".join(map(str, error.instance_path))
                raise AssertionError(f"{what}: at {place}: {error.message[:500]}\n{json.dumps(value)[:2000]}")

    def raise_faults(self):
        faults, self.faults = self.faults, []
        assert not faults, "against /openapi.json:\n" + "\n".join(faults)


def deepest(error):
    """Of several schemas that could have been meant, what is wrong in the one that fits best."""
    context = getattr(error.kind, "context", None) or []
    found = [deepest(inner) for branch in context for inner in branch]
    return max(found, key=lambda inner: len(inner.instance_path), default=error)


def data_of(body, complete=True):
    """The data of each event, as JSON where it is some."""
    text = body.decode("utf-8", "strict" if complete else "ignore")
    events = text.split("\n\n")
    if complete:
        assert events[-1] == "", f"the stream ends with {events[-1]!r}"
    for event in events[:-1]:
        data = [line[len("data: "):] for line in event.split("\n") if line.startswith("data: ")]
        if data:
            yield json.loads("\n".join(data)) if data[0][:1] == "{" else "\n".join(data)


def load():
    quern = os.environ.get("QUERN", "build/quern")
    with open(os.path.join(os.path.dirname(quern), "server", "openapi.json"), encoding="utf-8") as file:
        return Contract(json.load(file))


CONTRACT = load()


class WatchedConnection:
    """To be named before http.client.HTTPConnection or a class of it."""

    def putrequest(self, method, url, *arguments, **options):
        self.asked = (method, url)
        super().putrequest(method, url, *arguments, **options)

    def getresponse(self):
        answer = super().getresponse()
        asked, read, pieces = self.asked, answer.read, []

        def watched_read(*arguments):
            pieces.append(read(*arguments))
            if answer.isclosed() and asked is not None:
                CONTRACT.check(*asked, answer.status, answer.headers, b"".join(pieces))
            return pieces[-1]

        answer.read = watched_read
        return answer


class WatchedHTTPConnection(WatchedConnection, http.client.HTTPConnection):
    pass


class WatchedSocket:
    """A socket that keeps what went through it, and looks at it when it is closed."""

    def __init__(self, connection):
        self.connection = connection
        self.sent, self.received = bytearray(), bytearray()

    def __getattr__(self, name):
        return getattr(self.connection, name)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.close()

    def sendall(self, data):
        self.sent += data
        self.connection.sendall(data)

    def recv(self, size):
        data = self.connection.recv(size)
        self.received += data
        return data

    def makefile(self, mode):
        return WatchedFile(self.connection.makefile(mode), self.received)

    def close(self):
        self.connection.close()
        for request, answer in zip(requests_in(bytes(self.sent)), answers_in(bytes(self.received))):
            CONTRACT.check(*request, *answer)
        self.sent.clear()
        self.received.clear()


class WatchedFile:
    def __init__(self, file, received):
        self.file, self.received = file, received

    def read(self, *arguments):
        data = self.file.read(*arguments)
        self.received += data
        return data

    def readline(self, *arguments):
        data = self.file.readline(*arguments)
        self.received += data
        return data


def take_message(data):
    """The first line, headers, body, whether that is all of it, and what comes behind."""
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return None
    line, _, lines = head.decode("latin-1").partition("\r\n")
    headers = http.client.HTTPMessage()
    for header in filter(None, lines.split("\r\n")):
        name, _, value = header.partition(":")
        headers[name] = value.strip()
    if headers.get("Transfer-Encoding") == "chunked":
        body = bytearray()
        while rest:
            size, found, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            if not found or len(rest) < length + 2:
                return line, headers, bytes(body + rest[:length]), False, b""
            body, rest = body + rest[:length], rest[length + 2:]
            if length == 0:
                return line, headers, bytes(body), True, rest
        return line, headers, bytes(body), False, b""
    # Without a length a request has no body, and an answer all until the end: whether that is all, it does not say.
    length = int(headers.get("Content-Length", 0 if " HTTP/" in line else len(rest)))
    return line, headers, rest[:length], len(rest) >= length and "Content-Length" in headers, rest[length:]


def requests_in(data):
    with contextlib.suppress(ValueError):  # a wrong length: what is no request has no answer to look at
        while data and (message := take_message(data)):
            line, data = message[0], message[-1]
            words = line.split(" ")
            if len(words) != 3 or not words[2].startswith("HTTP/1."):
                return
            yield words[0], words[1]


def answers_in(data):
    while data and (message := take_message(data)):
        line, headers, body, complete, data = message
        status = int(line.split(" ")[1])
        if status == 100:
            continue
        if status in NOT_HTTP and "X-Request-Id" not in headers and b"<html>" in body:
            return
        yield status, headers, body, complete


# --- the SDKs ---

class WatchedStream:
    def __init__(self, stream, check):
        self.stream, self.check = stream, check
        self.pieces = []

    def __iter__(self):
        for piece in self.stream:
            self.pieces.append(piece)
            yield piece
        self.end(complete=True)

    async def __aiter__(self):
        async for piece in self.stream:
            self.pieces.append(piece)
            yield piece
        self.end(complete=True)

    def close(self):
        self.stream.close()
        self.end(complete=False)

    async def aclose(self):
        await self.stream.aclose()
        self.end(complete=False)

    def end(self, complete):
        check, self.check = self.check, None
        if check is not None:
            check(b"".join(self.pieces), complete)


def watch(request, answer, base):
    def check(body, complete):
        CONTRACT.check(request.method, request.url.raw_path.decode(), answer.status_code, answer.headers, body, complete)

    kind = type("WatchedStream", (WatchedStream, base), {})  # the client asks whether it is one of its own
    answer.stream = kind(answer.stream, check)
    return answer


def watch_clients(httpx):
    """Puts a watch into the classes that all clients of an httpx send through."""
    plain, plain_async = httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request

    def handle_request(transport, request):
        return watch(request, plain(transport, request), httpx.SyncByteStream)

    async def handle_async_request(transport, request):
        return watch(request, await plain_async(transport, request), httpx.AsyncByteStream)

    httpx.HTTPTransport.handle_request = handle_request
    httpx.AsyncHTTPTransport.handle_async_request = handle_async_request


for library in ("httpx", "httpx2"):
    with contextlib.suppress(ImportError):
        watch_clients(importlib.import_module(library))
