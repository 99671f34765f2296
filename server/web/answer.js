// One answer as it is shown: reasoning, text, calls, and what it took.
import {GrowingText, copyButton, icon, jsonBlock, codeBlock, make, parseJson} from "./text.js";

const seconds = ms => ms < 59500 ? `${Math.round(ms / 1000)} s`
    : `${Math.floor(ms / 60000)} min ${Math.round(ms / 1000) % 60} s`;
const setText = (element, text) => { if (element.textContent !== text) element.textContent = text; };
const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

export const emptyAnswer = () =>
    ({role: "assistant", content: "", reasoning: "", calls: [], tokens: 0, early: 0, times: {}, finish: null});

// Without one that was cut.
export const callsOf = answer => answer.calls.filter(call => parseJson(call.text || "{}"));

// As the API has it in a history.
export function answerMessage(answer) {
    const {content, reasoning} = answer, calls = callsOf(answer);
    return {role: "assistant", content, ...reasoning && {reasoning_content: reasoning}, ...calls.length && {
        tool_calls: calls.map(({id, name, text}) => ({id, type: "function", function: {name, arguments: text}}))}};
}

// Adds a chunk of the stream. times: first and last token, and the end of reasoning, in ms since the request was sent; a
// call is told when it is complete, long after its first token. early: the tokens that came with the first one.
export function addChunk(answer, chunk, now) {
    const {delta = {}, finish_reason: finish} = chunk.choices[0] ?? {};
    const {content, reasoning_content: reasoning, tool_calls: calls} = delta;
    const tokens = chunk.usage?.completion_tokens ?? answer.tokens;
    if (tokens > answer.tokens) {
        if (answer.times.first === undefined) Object.assign(answer, {early: tokens, times: {first: now}});
        answer.times.last = now;
    }
    answer.tokens = tokens;
    answer.finish = finish ?? answer.finish;
    if (reasoning) answer.reasoning += reasoning;
    if ((content || calls) && answer.reasoning) answer.times.thought ??= now;
    if (content) answer.content += content;
    for (const {index, id, function: {name, arguments: text} = {}} of calls ?? []) {
        const call = answer.calls[index] ??= {id: "", name: "", text: ""};
        call.id = id ?? call.id;
        call.name += name ?? "";
        call.text += text ?? "";
    }
}

function callBlock(call) {
    const text = call.text || "{}", block = (parseJson(text) ? jsonBlock : codeBlock)(call.name, text);
    block.classList.add("call");
    return block;
}

export class AnswerView {
    #reasoning = make("details", {class: "reasoning", hidden: true});
    #summary = make("span");
    #thoughts = document.createTextNode("");
    #body = make("div", {class: "prose", attributes: {"aria-live": "polite"}});
    #calls = make("div", {class: "calls"});
    #foot = make("div", {class: "foot"});
    #text = new GrowingText(this.#body);
    #shown = {content: 0, reasoning: 0, calls: ""};

    constructor(answer) {
        this.answer = answer;
        this.waiting = make("p", {class: "waiting"}, icon("mark"), make("span", {}, ""));
        this.#reasoning.append(make("summary", {}, icon("mark"), this.#summary), make("div", {class: "thoughts", dir: "auto"}, this.#thoughts));
        this.element = make("article", {class: "turn answer", attributes: {"aria-label": "Answer"}},
            this.waiting, this.#reasoning, this.#body, this.#calls, this.#foot);
    }

    // Shows what was added; now: ms since the request was sent.
    grow(now) {
        const {content, reasoning, calls, times} = this.answer;
        this.element.classList.add("busy");
        this.waiting.hidden = content !== "" || reasoning !== "" || calls.length > 0;
        setText(this.waiting.lastChild, now > 1500 ? `waiting for ${seconds(now)}` : "");
        this.#show(false);
        const thinking = reasoning && times.thought === undefined;
        this.#reasoning.classList.toggle("now", thinking);
        setText(this.#summary, thinking ? `Thinking … ${seconds(now - times.first)}` : this.#thoughtFor());
    }

    finish(actions) {
        this.element.classList.remove("busy");
        this.waiting.hidden = true;
        this.#show(true);
        this.#reasoning.classList.remove("now");
        setText(this.#summary, this.#thoughtFor());
        const notes = {length: "Cut off: the limit of tokens is reached.", stopped: "Stopped."}[this.answer.finish];
        this.#foot.replaceChildren(...notes ? [make("p", {class: "note"}, notes)] : [], make("div", {class: "row"},
            ...this.answer.content ? [copyButton(() => this.answer.content, "answer")] : [], ...actions, this.#figures()));
    }

    #thoughtFor() {
        const {first, last, thought = last} = this.answer.times;
        return `Thought for ${thought - first < 950 ? "a moment" : seconds(thought - first)}`;
    }

    #figures() {
        const {tokens, early, times: {first, last}} = this.answer;
        if (first === undefined) return "";
        const rate = (tokens - early) / (last - first) * 1000;
        const parts = [count(tokens, "token")];
        if (tokens > early && last - first > 50) parts.push(`${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s`);
        parts.push(`${first < 9950 ? (first / 1000).toFixed(2) + " s" : seconds(first)} to first token`);
        return make("p", {class: "figures", title: "Tokens of the answer and its reasoning, tokens per second from the first to the "
            + "last, and time from sending to the first"}, parts.join(" · "));
    }

    #show(finished) {
        const {content, reasoning, calls} = this.answer, shown = this.#shown;
        if (reasoning.length > shown.reasoning) this.#thoughts.appendData(reasoning.slice(shown.reasoning));
        if (content.length > shown.content) this.#text.append(content.slice(shown.content));
        this.#text.render(finished);
        const state = JSON.stringify(calls);
        if (state !== shown.calls) this.#calls.replaceChildren(...calls.map(callBlock));
        this.#reasoning.hidden = !reasoning;
        this.#shown = {content: content.length, reasoning: reasoning.length, calls: state};
    }
}
