// Text to elements: a small Markdown, JSON, and blocks of code. Text becomes text nodes and never HTML.

export function make(name, fields = {}, ...children) {
    const {class: className, on = {}, attributes = {}, ...properties} = fields;
    const element = Object.assign(document.createElement(name), properties);
    if (className) element.className = className;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
    element.append(...children);
    return element;
}

export function icon(name) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    use.setAttribute("href", "#" + name);
    svg.setAttribute("aria-hidden", "true");
    svg.append(use);
    return svg;
}

async function writeClipboard(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const area = make("textarea", {class: "unseen", value: text}); // plain http of another host has no clipboard
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    if (!copied) throw new Error("the browser did not copy");
}

export function copyButton(text, what) {
    const button = make("button", {class: "icon small", type: "button", title: "Copy", attributes: {"aria-label": `Copy ${what}`}},
        icon("i-copy"));
    button.addEventListener("click", async () => {
        const done = await writeClipboard(text()).then(() => true, () => false);
        button.replaceChildren(icon(done ? "i-check" : "i-close"));
        button.title = done ? "Copied" : "The browser did not copy";
        setTimeout(() => { button.replaceChildren(icon("i-copy")); button.title = "Copy"; }, 1500);
    });
    return button;
}

// A block that can be folded and copied.
export function codeBlock(label, text, ...content) {
    return make("figure", {class: "code"},
        make("details", {open: true}, make("summary", {}, label || "code"),
            make("pre", {tabIndex: 0, dir: "ltr", attributes: {"aria-label": label || "code"}}, ...content.length ? content : [text])),
        copyButton(() => text, label || "code"));
}

const JSON_TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;

// undefined: it is no object and no array.
export function parseJson(text) {
    try {
        const value = JSON.parse(text);
        return typeof value === "object" && value !== null ? value : undefined;
    } catch {
        return undefined;
    }
}

// text is JSON. It is indented as it stands: a parsed value would lose long numbers and the order of keys.
export function jsonBlock(label, text) {
    const tokens = text.match(JSON_TOKEN), nodes = [];
    let depth = 0;
    const line = () => "\n" + "  ".repeat(depth);
    const opens = token => token === "{" || token === "[", closes = token => token === "}" || token === "]";
    tokens.forEach((token, i) => {
        const next = tokens[i + 1];
        if (closes(token)) {
            if (!opens(tokens[i - 1])) { depth--; nodes.push(line()); }
            nodes.push(token);
        } else if (opens(token)) {
            nodes.push(token);
            if (!closes(next)) { depth++; nodes.push(line()); }
        } else if (token === ",") {
            nodes.push(token, line());
        } else if (token === ":") {
            nodes.push(": ");
        } else {
            nodes.push(make("span", {class: next === ":" ? "key" : token[0] === '"' ? "string" : "value"}, token));
        }
    });
    return codeBlock(label, nodes.map(node => node.textContent ?? node).join(""), ...nodes);
}

// --- Markdown within a line. Repetitions are bounded, so that no text takes long.

const INLINE = new RegExp([
    /(?<tick>`+)(?<code>[^`](?:[^\n]{0,2000}?[^`])??)\k<tick>(?!`)/,
    /\[(?<text>[^[\]\n]{1,500})\]\((?<href>(?:https?:\/\/|mailto:)[^\s()<>]{1,2000}(?:\([^\s()<>]{0,200}\)[^\s()<>]{0,200})?)\)/,
    /(?<url>https?:\/\/[^\s<>"'`*]{1,2000}[^\s<>"'`*.,:;!?)\]}])/,
    /(?<![\w\\*])\*\*(?<bold>[^\s*](?:[^\n]{0,2000}?[^\s])??)\*\*/,
    /(?<![\w\\*])\*(?<italic>[^\s*](?:[^\n*]{0,2000}?[^\s*])??)\*(?!\*)/,
    /(?<![\w\\_])_(?<under>[^\s_](?:[^\n_]{0,2000}?[^\s_])??)_(?!\w)/,
    /~~(?<gone>[^\s~](?:[^\n~]{0,2000}?[^\s~])??)~~/,
    /\\(?<plain>[\\`*_{}[\]()#+\-.!~|>])/,
    /(?<line>\n|<br ?\/?>)/,
].map(part => part.source).join("|"), "gu");

function inline(text, depth = 0) {
    const nodes = [];
    let end = 0;
    for (const found of text.matchAll(INLINE)) {
        const group = found.groups;
        const nested = inner => depth < 6 ? inline(inner, depth + 1) : [inner];
        const link = (href, ...children) =>
            make("a", {href, target: "_blank", rel: "noopener noreferrer nofollow"}, ...children);
        if (found.index > end) nodes.push(text.slice(end, found.index));
        end = found.index + found[0].length;
        if (group.code !== undefined) nodes.push(make("code", {}, group.code));
        else if (group.href) nodes.push(link(group.href, ...nested(group.text)));
        else if (group.url) nodes.push(link(group.url, group.url));
        else if (group.bold) nodes.push(make("strong", {}, ...nested(group.bold)));
        else if (group.italic ?? group.under) nodes.push(make("em", {}, ...nested(group.italic ?? group.under)));
        else if (group.gone) nodes.push(make("del", {}, ...nested(group.gone)));
        else if (group.line) nodes.push(make("br"));
        else nodes.push(group.plain);
    }
    if (end < text.length) nodes.push(text.slice(end));
    return nodes;
}

// --- Markdown by lines

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/, HEADING = /^ {0,3}(#{1,6})\s+(.*)$/, RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/, ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( +|$)/, BLANK = /^\s*$/, MAX_DEPTH = 8;
const TABLE_RULE = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const begins = line => [FENCE, HEADING, RULE, QUOTE, ITEM].some(form => form.test(line));
const cells = line => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map(cell => cell.trim());

function table(head, rule, rows) {
    const sides = cells(rule).map(cell => /^:-+:$/.test(cell) ? "center" : cell.endsWith(":") ? "end" : "");
    const row = (line, name) => make("tr", {}, ...cells(line).slice(0, sides.length).map((cell, i) =>
        make(name, {dir: "auto", class: sides[i] ?? ""}, ...inline(cell))));
    return make("div", {class: "table", tabIndex: 0}, make("table", {}, make("thead", {}, row(head, "th")),
        make("tbody", {}, ...rows.map(line => row(line, "td")))));
}

// The first block of lines from `at` on: its element, and the line after it.
function block(lines, at, depth) {
    const line = lines[at];
    let next = at + 1, found;
    const until = ends => { while (next < lines.length && !ends(lines[next])) next++; return lines.slice(at, next); };
    if ((found = FENCE.exec(line))) {
        const [, fence, language] = found;
        const body = until(other => other.trim().startsWith(fence) && BLANK.test(other.trim().replaceAll(fence[0], ""))).slice(1);
        return [codeBlock(language, body.join("\n")), next + 1];
    }
    if ((found = HEADING.exec(line))) return [make("h" + Math.min(found[1].length + 2, 6), {dir: "auto"}, ...inline(found[2])), next];
    if (RULE.test(line)) return [make("hr"), next];
    if (QUOTE.test(line) && depth < MAX_DEPTH) {
        const body = until(other => !QUOTE.test(other)).map(other => other.replace(QUOTE, ""));
        return [make("blockquote", {dir: "auto"}, ...blocks(body, depth + 1).map(([node]) => node)), next];
    }
    if ((found = ITEM.exec(line)) && depth < MAX_DEPTH) return list(lines, at, found, depth);
    if (line.includes("|") && TABLE_RULE.test(lines[next] ?? "") && lines[next].includes("-") && lines[next].includes("|")) {
        next++;
        const rows = until(other => BLANK.test(other) || !other.includes("|"));
        return [table(line, rows[1], rows.slice(2)), next];
    }
    const body = until(other => BLANK.test(other) || begins(other));
    return [make("p", {dir: "auto"}, ...inline(body.map(other => other.trim()).join("\n"))), next];
}

function list(lines, at, first, depth) {
    const ordered = /\d/.test(first[2]), items = [];
    const same = found => found && /\d/.test(found[2]) === ordered;
    let next = at, width = 0;
    while (next < lines.length) {
        const line = lines[next], found = ITEM.exec(line), indent = line.search(/\S/);
        if (same(found) && (items.length === 0 || indent < width) && !RULE.test(line)) {
            width = found[1].length + found[2].length + 1;
            items.push([line.slice(found[0].length)]);
        } else if (BLANK.test(line)) {
            const after = lines.slice(next).find(other => !BLANK.test(other));
            if (after === undefined || !(after.search(/\S/) >= Math.min(width, 2) || same(ITEM.exec(after)))) break;
            items.at(-1).push("");
        } else if (indent >= Math.min(width, 2)) {
            items.at(-1).push(line.slice(Math.min(indent, width)));
        } else if (begins(line) || items.at(-1).at(-1) === "") {
            break;
        } else {
            items.at(-1).push(line);
        }
        next++;
    }
    const loose = items.some(item => item.slice(0, -1).includes(""));
    const nodes = items.map(item => make("li", {dir: "auto"}, ...blocks(item, depth + 1).flatMap(([node]) =>
        !loose && node.localName === "p" ? [...node.childNodes] : [node])));
    return [make(ordered ? "ol" : "ul", ordered ? {start: parseInt(first[2])} : {}, ...nodes), next];
}

// [element, number of its first line] of each block.
function blocks(lines, depth = 0) {
    const found = [];
    for (let at = 0; at < lines.length;) {
        if (BLANK.test(lines[at])) { at++; continue; }
        const [node, next] = block(lines, at, depth);
        found.push([node, at]);
        at = next;
    }
    return found;
}

const JSON_ANSWER = /^\s*(\{\s*("|\}|$)|\[\s*(["{[]|-?[\d.]+\s*,|$))/;

// A text that grows. Blocks that are complete are never touched again, so that a screen reader is told each of them
// once, and a long answer costs no more than its last block.
export class GrowingText {
    #tail = make("div", {class: "tail", attributes: {"aria-hidden": "true"}});
    #lines = [""]; // from the last block on
    #changed = false;

    constructor(parent) {
        this.parent = parent;
        parent.append(this.#tail);
    }

    append(text) {
        const [first, ...others] = text.split("\n");
        this.#lines[this.#lines.length - 1] += first;
        for (const line of others) this.#lines.push(line);
        this.#changed = true;
    }

    render(finished = false) {
        if (!this.#changed && !finished) return;
        this.#changed = false;
        const isJson = this.parent.firstChild === this.#tail && JSON_ANSWER.test(this.#lines.slice(0, 2).join(""));
        const found = isJson ? [[this.#json(finished), 0]] : blocks(this.#lines);
        const last = found.at(-1);
        if (!last) return;
        for (const [node] of found.slice(0, finished ? undefined : -1)) this.parent.insertBefore(node, this.#tail);
        this.#tail.replaceChildren(...finished ? [] : [last[0]]);
        this.#lines = finished ? [""] : this.#lines.slice(last[1]);
    }

    #json(finished) {
        const text = this.#lines.join("\n");
        return finished && parseJson(text) ? jsonBlock("JSON", text) : codeBlock("JSON", text);
    }
}
