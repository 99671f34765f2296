"""Keeps what schemathesis asks for small: valid limits are lowered, wrong ones stay as wrong as they are."""
import schemathesis


def lowered(value, limit, largest):
    return limit if isinstance(value, int) and not isinstance(value, bool) and limit < value <= largest else value


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if not isinstance(body, dict):
        return
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if name in body:
            body[name] = lowered(body[name], 3, 2**31 - 1)
    if body.get("max_tokens") is None and body.get("max_completion_tokens") is None:
        body["max_tokens"] = 3
    if "n" in body:
        body["n"] = lowered(body["n"], 2, 128)
