// Asks the server that the page came from. What goes wrong is a Failure, told in words.

export class Failure extends Error {
    constructor(message, fields = {}) {
        super(message);
        Object.assign(this, {status: 0, retryAfter: 0, ...fields});
    }
}

let key = "";

try {
    key = sessionStorage.getItem("quern.key") ?? "";
} catch { /* the browser keeps nothing */ }

export const hasKey = () => key !== "";

export function setKey(value) {
    key = value;
    try {
        sessionStorage.setItem("quern.key", value);
    } catch { /* until the page is closed */ }
}

async function failureOf(response) {
    const {status} = response;
    const body = await response.json().catch(() => ({}));
    const said = body?.error?.message ?? response.statusText;
    const retryAfter = Number(response.headers.get("Retry-After")) || 0;
    const words = {
        401: key ? "The server does not accept this API key." : "This server asks for an API key.",
        413: "The conversation is too large for the server.",
        429: "The server is busy: its queue is full.",
        503: "The server is not ready yet, or is stopping.",
    };
    return new Failure(words[status] ?? (status < 500 ? "The server refuses this." : "The server failed."),
        {status, retryAfter, said: status === 401 ? "" : said});
}

async function request(path, options = {}) {
    const headers = {...options.headers};
    if (key) headers.Authorization = "Bearer " + key;
    let response;
    try {
        response = await fetch(path, {...options, headers}); // relative: the page may stand under a prefix
    } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Failure("The server does not answer. Is it running, and are you connected?");
    }
    if (!response.ok) throw await failureOf(response);
    return response;
}

export const getJson = async path => (await request(path)).json();

// The data of each event of a stream.
async function* events(body) {
    let rest = "";
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    try {
        for (;;) {
            const {done, value} = await reader.read();
            if (done) return;
            const parts = (rest + value).split("\n\n");
            rest = parts.pop();
            for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
        }
    } finally {
        reader.cancel().catch(() => {});
    }
}

// Yields chunks of a chat completion; returns when the answer is complete.
export async function* chat(body, signal) {
    const response = await request("v1/chat/completions", {
        method: "POST", signal, headers: {"Content-Type": "application/json"},
        body: JSON.stringify({...body, stream: true, stream_options: {include_usage: true, continuous_usage_stats: true}}),
    });
    try {
        for await (const data of events(response.body)) {
            if (data === "[DONE]") return;
            const chunk = JSON.parse(data);
            if (chunk.error) throw new Failure("The server ended the answer.", {said: chunk.error.message});
            yield chunk;
        }
    } catch (error) {
        if (error.name === "AbortError" || error instanceof Failure) throw error;
    }
    throw new Failure("The connection was lost before the answer was complete.");
}
