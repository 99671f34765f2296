// The page: its conversation, its settings, and what the reader does.
import {AnswerView, addChunk, answerMessage, callsOf, emptyAnswer} from "./answer.js";
import {Failure, chat, getJson, hasKey, setKey} from "./api.js";
import {codeBlock, icon, jsonBlock, make, parseJson} from "./text.js";

const at = id => document.getElementById(id);
const [input, turnsElement, status] = ["input", "turns", "status"].map(at);
const touch = matchMedia("(pointer: coarse)").matches; // a keyboard on the screen, which has no Shift Enter
const FIELDS = ["system", "temperature", "top_p", "max_tokens", "tools", "schema"];
const DEFAULTS = {think: true, ...Object.fromEntries(FIELDS.map(name => [name, ""]))};

let turns = [];          // {role: user, content}, answers, and {role: tool, tool_call_id, name, content}
let cleared = null;      // turns that can be brought back
let running = null;      // the AbortController of the answer that comes
let model = null;
let canChoose = true;    // whether the model thinks
let settings = DEFAULTS;
const views = new Map(); // turn to AnswerView
const elements = new Map();

// Storage may be full or forbidden, and hold what an older page wrote: the page works without.
function recall(storage, name, use) {
    try {
        use(JSON.parse(window[storage].getItem(name)));
    } catch { /* as at the first visit */ }
}

function remember(storage, name, value) {
    try {
        window[storage].setItem(name, JSON.stringify(value));
    } catch { /* until the page is closed */ }
}

// --- scrolling: the end is followed while the reader is there

let atEnd = true;

function follow() {
    if (atEnd) scrollTo({top: document.documentElement.scrollHeight, behavior: "instant"});
    at("down").hidden = atEnd;
}

addEventListener("scroll", () => {
    atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 48;
    at("down").hidden = atEnd;
}, {passive: true});
addEventListener("resize", follow);
at("down").addEventListener("click", () => { atEnd = true; follow(); });

// --- the conversation

const action = (name, label, listener) =>
    make("button", {class: "icon small", type: "button", title: label, on: {click: listener}, attributes: {"aria-label": label}}, icon(name));

function userElement(turn) {
    const bubble = make("div", {class: "bubble", dir: "auto"}, turn.content);
    return make("article", {class: "turn user", attributes: {"aria-label": "You"}}, bubble,
        action("i-edit", "Edit", () => edit(turn)));
}

function elementOf(turn) {
    if (turn.role === "user") return userElement(turn);
    if (turn.role === "assistant") {
        views.set(turn, new AnswerView(turn));
        return views.get(turn).element;
    }
    const label = `result of ${turn.name}`;
    return make("article", {class: "turn result", attributes: {"aria-label": label}},
        (parseJson(turn.content) ? jsonBlock : codeBlock)(label, turn.content));
}

function add(turn) {
    turns.push(turn);
    elements.set(turn, elementOf(turn));
    turnsElement.append(elements.get(turn));
}

function cutTo(length) {
    for (const turn of turns.splice(length)) {
        elements.get(turn)?.remove();
        elements.delete(turn);
        views.delete(turn);
    }
}

function update() {
    at("welcome").hidden = turns.length > 0;
    at("restore").hidden = !cleared;
    at("clear").disabled = turns.length === 0;
    at("send").hidden = running !== null;
    at("stop").hidden = running === null;
    turnsElement.setAttribute("aria-busy", running !== null);
    document.body.classList.toggle("running", running !== null);
    turnsElement.querySelector(".results")?.remove();
    const last = turns.at(-1);
    for (const [turn, view] of views) {
        if (running && turn === last) continue;
        view.finish(turn === last ? [action("i-again", "Answer again", again)] : []);
    }
    if (!running && last?.role === "assistant" && callsOf(last).length > 0) views.get(last).element.append(resultsForm(last));
    remember("sessionStorage", "quern.turns", turns);
}

function setTurns(wanted) {
    cutTo(0);
    turnsElement.replaceChildren();
    wanted.forEach(add);
    update();
}

function clear() {
    running?.abort();
    cleared = [...turns];
    setTurns([]);
    atEnd = true;
    follow();
    if (!touch) input.focus();
}

function edit(turn) {
    const element = elements.get(turn), field = make("textarea", {value: turn.content, dir: "auto", attributes: {"aria-label": "Edit your message"}});
    const close = () => { form.replaceWith(element); elements.set(turn, element); element.querySelector("button").focus(); };
    const send = () => {
        if (!field.value.trim() || running) return;
        cutTo(turns.indexOf(turn));
        say(field.value);
    };
    const form = make("form", {class: "turn user edit", on: {submit: event => { event.preventDefault(); send(); }}}, field,
        make("div", {class: "row"}, make("button", {class: "quiet", type: "button", on: {click: close}}, "Cancel"),
            make("button", {class: "main"}, "Send")));
    field.addEventListener("keydown", event => {
        if (event.key === "Escape") { event.stopPropagation(); close(); }
        if (isSend(event)) { event.preventDefault(); send(); }
    });
    element.replaceWith(form);
    elements.set(turn, form);
    grow(field);
    field.addEventListener("input", () => grow(field));
    field.focus();
}

// The reader plays the tools.
function resultsForm(answer) {
    const fields = callsOf(answer).map(call => [call, make("textarea", {rows: 1, class: "code", spellcheck: false,
        attributes: {"aria-label": `Result of ${call.name} ${call.text}`}, placeholder: `result of ${call.name} ${call.text}`})]);
    const send = event => {
        event.preventDefault();
        for (const [call, field] of fields) add({role: "tool", tool_call_id: call.id, name: call.name, content: field.value});
        ask();
    };
    fields.forEach(([, field]) => field.addEventListener("keydown", event => { if (isSend(event)) send(event); }));
    return make("form", {class: "results", on: {submit: send}}, ...fields.map(([, field]) => field),
        make("button", {class: "main"}, fields.length > 1 ? "Send the results" : "Send the result"));
}

function complain(failure) {
    const retry = make("button", {class: "main", type: "button", on: {click: again}}, "Try again");
    const enter = make("button", {class: "main", type: "button", on: {click: () => askForKey(again)}}, "Enter a key");
    turnsElement.append(make("div", {class: "notice", attributes: {role: "alert"}},
        make("p", {}, failure.message, ...failure.said ? [make("span", {class: "said", dir: "auto"}, failure.said)] : []),
        failure.status === 401 ? enter : retry));
    if (failure.status === 401) askForKey(again);
    else if (failure.status !== 429) connect(); // it may be another one now
}

// --- asking

function requestBody() {
    const number = name => settings[name] === "" ? {} : {[name]: Number(settings[name])};
    const messages = turns.map(turn => turn.role === "assistant" ? answerMessage(turn) : turn);
    if (settings.system.trim()) messages.unshift({role: "system", content: settings.system});
    return {
        ...model && {model}, messages, ...canChoose && {enable_thinking: settings.think},
        ...number("temperature"), ...number("top_p"), ...number("max_tokens"),
        ...settings.tools.trim() && {tools: parseJson(settings.tools)},
        ...settings.schema.trim() && {response_format: {type: "json_schema",
            json_schema: {name: "answer", strict: true, schema: parseJson(settings.schema)}}},
    };
}

// Otherwise shows what has to be put right first.
function canAsk() {
    const wrong = ["tools", "schema"].find(name => wrongJson(name));
    if (wrong) openSettings(wrong);
    return !wrong;
}

async function ask() {
    if (running) return;
    turnsElement.querySelectorAll(".notice").forEach(notice => notice.remove());
    if (!canAsk()) return update();
    const body = requestBody(), answer = emptyAnswer(), mine = new AbortController();
    const began = performance.now(), now = () => performance.now() - began;
    running = mine;
    cleared = null;
    add(answer);
    update();
    atEnd = true;
    let rested = 0, frame, failure;
    const draw = () => {
        const start = performance.now();
        if (start >= rested) { // drawing takes a fifth of the time at most
            views.get(answer)?.grow(now());
            follow();
            rested = start + 5 * (performance.now() - start);
        }
        frame = requestAnimationFrame(draw);
    };
    draw();
    status.textContent = "Waiting for the answer";
    try {
        for await (const chunk of chat(body, mine.signal)) {
            if (!answer.reasoning && chunk.choices[0]?.delta.reasoning_content) status.textContent = "Thinking";
            addChunk(answer, chunk, now());
        }
        status.textContent = "The answer is complete";
    } catch (error) {
        const stopped = error.name === "AbortError";
        answer.finish = stopped ? "stopped" : "failed";
        status.textContent = stopped ? "Stopped" : "";
        if (!stopped) failure = error instanceof Failure ? error : new Failure("The page failed.", {said: String(error)});
    }
    cancelAnimationFrame(frame);
    if (running === mine) running = null;
    if (!turns.includes(answer)) return update(); // cleared meanwhile
    if (failure && answer.times.first === undefined) cutTo(turns.length - 1);
    update();
    if (failure) complain(failure);
    follow();
}

function say(text) {
    add({role: "user", content: text});
    ask();
}

function again() {
    if (running) return;
    while (turns.at(-1)?.role === "assistant") cutTo(turns.length - 1);
    if (turns.length > 0) ask();
    else turnsElement.querySelectorAll(".notice").forEach(notice => notice.remove());
}

function stop() {
    running?.abort();
    if (!touch) input.focus();
}

// --- settings

function wrongJson(name) {
    const text = settings[name].trim();
    let wrong = "";
    try {
        const value = text ? JSON.parse(text) : undefined;
        if (name === "tools" && text && !Array.isArray(value)) wrong = "This must be an array of tools: […]";
        if (name === "schema" && text && (typeof value !== "object" || !value)) wrong = "This must be an object: {…}";
    } catch (error) {
        wrong = `This is no JSON: ${error.message}`;
    }
    at(name + "-wrong").textContent = wrong;
    at(name).setAttribute("aria-invalid", wrong !== "");
    return wrong;
}

function showSettings() {
    for (const name of FIELDS) if (at(name).value !== settings[name]) at(name).value = settings[name];
    const own = settings.temperature === "", shown = own ? "the model’s own" : settings.temperature;
    if (own) at("temperature").value = 0.7;
    at("temperature").classList.toggle("own", own);
    at("temperature").setAttribute("aria-valuetext", shown);
    at("temperature-shown").value = shown;
    at("temperature-auto").hidden = own;
    at("think").setAttribute("aria-pressed", settings.think);
    ["tools", "schema"].forEach(wrongJson);
}

function change(fields) {
    settings = {...settings, ...fields};
    remember("localStorage", "quern.settings", settings);
    showSettings();
}

function openSettings(field) {
    at("settings").showModal();
    if (!field) return;
    at("settings").querySelector("details").open = true;
    at(field).focus();
}

let afterKey = null;

function askForKey(then) {
    afterKey = then;
    at("key-why").textContent = hasKey() ? "The server does not accept the key that it was shown."
        : "This server answers only to those who show a key.";
    at("key").value = "";
    if (!at("key-dialog").open) at("key-dialog").showModal();
}

// --- what the server is

let retry;

async function connect(then) {
    clearTimeout(retry);
    const shown = at("model");
    try {
        const names = (await getJson("v1/models")).data.map(entry => entry.id);
        if (!names.includes(model)) model = names[0];
        at("models").replaceChildren(...names.map(name => new Option(name, name, false, name === model)));
        at("models").hidden = names.length < 2;
        shown.hidden = names.length > 1;
        shown.textContent = model;
        document.title = `${model} – quern`;
        const template = (await getJson("server_info").catch(() => null))?.model?.chat_template;
        canChoose = !["instruct", "thinking", "coder"].includes(template);
        at("think").hidden = !canChoose;
        then?.();
    } catch (error) {
        shown.textContent = {401: "needs a key", 503: "loading the model …"}[error.status] ?? "no connection";
        if (error.status === 401) askForKey(then);
        else retry = setTimeout(() => connect(then), 2000);
    }
}

// --- the reader

const isSend = event => event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch;

function grow(field) {
    if (CSS.supports("field-sizing", "content")) return;
    field.style.height = "auto";
    field.style.height = field.scrollHeight + "px";
}

function send() {
    if (running || !input.value.trim() || !canAsk()) return;
    say(input.value);
    input.value = "";
    grow(input);
    if (touch) input.blur();
    else input.focus();
}

at("composer").addEventListener("submit", event => { event.preventDefault(); send(); });
input.addEventListener("keydown", event => { if (isSend(event)) { event.preventDefault(); send(); } });
input.addEventListener("input", () => { grow(input); follow(); });
addEventListener("keydown", event => { if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) stop(); });
at("stop").addEventListener("click", stop);
at("clear").addEventListener("click", clear);
at("restore").addEventListener("click", () => { const wanted = cleared; cleared = null; setTurns(wanted); follow(); });
at("think").addEventListener("click", () => change({think: !settings.think}));
at("models").addEventListener("change", event => { model = event.target.value; });
for (const button of at("welcome").querySelectorAll("li button")) button.addEventListener("click", () => say(button.textContent));

at("open-settings").addEventListener("click", () => openSettings());
for (const name of FIELDS) at(name).addEventListener("input", () => change({[name]: at(name).value}));
at("temperature-auto").addEventListener("click", () => { change({temperature: ""}); at("temperature").focus(); });
at("reset").addEventListener("click", () => change({...DEFAULTS, think: settings.think}));
for (const dialog of document.querySelectorAll("dialog")) { // a press beside it closes it
    dialog.addEventListener("mousedown", event => { if (event.target === dialog) dialog.close(); });
}
at("open-key").addEventListener("click", () => { at("settings").close(); askForKey(null); });
at("key-cancel").addEventListener("click", () => at("key-dialog").close());
at("key-dialog").querySelector("form").addEventListener("submit", () => {
    setKey(at("key").value.trim());
    at("key").value = "";
    connect(afterKey);
});

recall("localStorage", "quern.settings", stored => {
    for (const [name, value] of Object.entries(DEFAULTS)) {
        if (typeof stored[name] === typeof value) settings = {...settings, [name]: stored[name]};
    }
});
showSettings();
recall("sessionStorage", "quern.turns", stored => {
    const isTurn = ({role, content, calls, times}) => typeof content === "string" &&
        (role === "user" || role === "tool" || role === "assistant" && Array.isArray(calls) && typeof times === "object");
    if (stored.every(isTurn)) setTurns(stored);
});
update();
follow();
if (!touch) input.focus();
connect();
