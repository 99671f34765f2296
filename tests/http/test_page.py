"""The page for people: its files, and how it looks and acts in a browser."""
import re
import unittest
import urllib.parse

import browser
from harness import SANITIZED, Server, ServerTest

PATH, DRIVER, NO_BROWSER = (None, None, "sanitizers tell nothing of a page") if SANITIZED else browser.find()
WEATHER = """[{"type": "function", "function": {"name": "get_weather", "description": "Get the current weather for a city.",
"parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "The city name"}},
"required": ["city"]}}}]"""
JSON_PROMPT = "Extract the name, age and city as JSON: Ada is 36 years old and lives in London."
ENDLESS = "Repeat exactly: <img src=x onerror=alert(1)> **bold**"  # greedily, the demo model never comes to an end of it
KINDS = {"css": "text/css", "svg": "image/svg+xml", "js": "text/javascript"}
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


class Files(ServerTest):
    def test_each_file(self):
        _, _, page = self.server.call("GET", "/")
        names = re.findall(r'(?:src|href)="([^#"]+)"', page.decode())
        self.assertGreaterEqual(len(names), 4)
        for path in ["/", *["/" + name for name in names]]:
            status, headers, body = self.server.call("GET", path)
            kind = KINDS.get(path.rpartition(".")[2], "text/html")
            with self.subTest(path):
                self.assertEqual(status, 200)
                self.assertTrue(headers["Content-Type"].startswith(kind), headers["Content-Type"])
                self.assertEqual((headers["Cache-Control"], headers["X-Content-Type-Options"], headers["Referrer-Policy"]),
                                 ("no-cache", "nosniff", "no-referrer"))
                policy = headers["Content-Security-Policy"]
                for part in ("default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'",
                             "require-trusted-types-for 'script'"):
                    self.assertIn(part, policy)
                self.assertNotIn("unsafe", policy)
                head = self.server.call("HEAD", path)
                self.assertEqual((head[0], head[1]["Content-Length"], head[2]), (200, str(len(body)), b""))
                tag = headers["ETag"]
                for known in (tag, f'"x", W/{tag}', "*"):
                    status, again, empty = self.server.call("GET", path, headers={"If-None-Match": known})
                    self.assertEqual((status, again["ETag"], empty), (304, tag, b""))
                self.assertEqual(self.server.call("GET", path, headers={"If-None-Match": '"x"'})[0], 200)
                elsewhere = re.sub(rb"http://www\.w3\.org/[^\"]*", b"", body)
                self.assertNotRegex(elsewhere, rb"""(["'(]|url\()(https?:)?//[a-z]""")

    def test_nothing_else(self):
        for path in ("/web/", "/web/none.js", "/web/openapi.json", "/web/index.html", "/web/../web/page.js", "/web/web/page.js",
                     "/index.html", "/page.js", "/favicon.ico", "//"):
            self.assertEqual(self.server.call("GET", path)[0], 404, path)
        status, headers, _ = self.server.call("POST", "/", {})
        self.assertEqual((status, headers["Allow"]), (405, "GET, HEAD"))

    def test_needs_no_key(self):
        server = Server("--api-key", "k")
        self.addCleanup(server.stop)
        for path, status in (("/", 200), ("/web/page.js", 200), ("/web/none.js", 401), ("/v1/models", 401), ("/web/", 401)):
            self.assertEqual(server.call("GET", path)[0], status, path)

    def test_can_be_turned_off(self):
        server = Server("--page", "off", "--api-key", "k")
        self.addCleanup(server.stop)
        for path in ("/", "/web/page.js"):
            self.assertEqual(server.call("GET", path)[0], 401)
            self.assertEqual(server.call("GET", path, headers={"x-api-key": "k"})[0], 404)


@unittest.skipIf(PATH is None, NO_BROWSER)
class InBrowser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)  # also where the browser does not start
        cls.reader = browser.Reader(PATH, DRIVER)
        cls.origins = {origin(cls.server.url)}

    @classmethod
    def tearDownClass(cls):
        cls.reader.close()
        assert cls.server.stop() == 0

    def setUp(self):
        self.reader.show(self.server.url)
        self.reader.wait(lambda: self.reader.text("#model") == "demo", "the name of the model")

    def tearDown(self):
        self.assertEqual(self.reader.complaints(), [])
        requested = self.reader.requested()
        self.assertTrue(requested)
        for address in requested:
            self.assertIn(origin(address), self.origins)

    # --- an answer

    def test_an_answer_is_streamed(self):
        reader = self.reader
        reader.show(self.server.url, settings={"temperature": "0", "max_tokens": "400"})
        reader.run("window.lengths = []; new MutationObserver(() => lengths.push(document.querySelector('.prose')"
                   "?.textContent.length ?? 0)).observe(document.getElementById('turns'), {childList: true, subtree: true})")
        reader.ask(ENDLESS)
        lengths = sorted({length for length in reader.run("return lengths") if length > 0})
        self.assertGreater(len(lengths), 3, "the text came at once")
        self.assertEqual(lengths[-1], reader.run("return document.querySelector('.prose').textContent.length"))
        self.assertRegex(reader.text(".figures"), r"^400 tokens · \d+ tokens/s · \d+\.\d\d s to first token$")
        self.assertEqual(reader.text(".note"), "Cut off: the limit of tokens is reached.")
        self.assertEqual(reader.one("#welcome").is_displayed(), False)
        self.assertEqual(reader.text(".bubble"), ENDLESS)

    def test_reasoning_is_folded(self):
        reader = self.reader
        reader.ask("Hello!")
        self.assertRegex(reader.text(".reasoning summary"), r"^Thought for (a moment|\d+ s)$")
        self.assertFalse(reader.one(".thoughts").is_displayed())
        reader.click(".reasoning summary")
        self.assertEqual(reader.text(".thoughts"), "This is a simple message.")
        self.assertEqual(reader.text(".prose"), "Hello! How can I help you today?")

    def test_reasoning_has_a_running_timer(self):
        reader = self.reader
        reader.fake_answer([{}, *[{"reasoning_content": "Hm. "}] * 20, {"content": "Yes."}], 100)
        reader.say("Is it?")
        reader.wait(lambda: reader.text(".reasoning summary") == "Thinking … 1 s", "a running timer")
        reader.wait(reader.is_idle, "its end")
        self.assertRegex(reader.text(".reasoning summary"), r"^Thought for [2-9] s$")

    def test_thinking_can_be_turned_off(self):
        reader = self.reader
        reader.click("#think")
        self.assertEqual(reader.one("#think").get_attribute("aria-pressed"), "false")
        reader.ask("What is 17 + 25?")
        self.assertEqual(reader.text(".prose"), "42")
        self.assertFalse(reader.one(".reasoning").is_displayed())

    def test_stop_and_again(self):
        reader = self.reader
        for stop in (lambda: reader.press("\ue00c"), lambda: reader.click("#stop")):  # Esc
            reader.say(ENDLESS)
            reader.wait(lambda: len(reader.texts(".prose")[-1]) > 80, "some text")
            self.assertEqual(self.server.live()[0], 1)
            stop()
            self.server.wait_for_live(lambda running, waiting, usage: (running, waiting) == (0, 0))
            reader.wait(reader.is_idle, "the end")
            self.assertEqual(reader.texts(".note")[-1], "Stopped.")
            self.assertRegex(reader.texts(".figures")[-1], r"^\d+ tokens · ")
            reader.click("#clear")
        reader.ask("What is 478 + 356?")
        before = self.server.metrics()['vllm:request_success_total{finished_reason="stop"}']
        reader.click("[aria-label='Answer again']")
        reader.wait(lambda: self.server.metrics()['vllm:request_success_total{finished_reason="stop"}'] == before + 1
                    and reader.is_idle(), "a second answer")
        self.assertEqual(reader.texts(".prose"), ["834"])

    def test_edit_and_clear(self):
        reader = self.reader
        reader.ask("What is 478 + 356?")
        reader.ask("Hello!")
        reader.click(".user [aria-label='Edit']")
        reader.write(".edit textarea", "What is 17 + 25?")
        reader.click(".edit .main")
        reader.wait(lambda: reader.texts(".prose") == ["42"] and reader.is_idle(), "another answer")
        self.assertEqual(reader.texts(".bubble"), ["What is 17 + 25?"])
        reader.driver.refresh()
        self.assertEqual(reader.texts(".prose"), ["42"])  # a reload forgets nothing
        reader.click("#clear")
        self.assertEqual(reader.all(".turn"), [])
        reader.click("#restore")
        self.assertEqual(reader.texts(".prose"), ["42"])

    def test_what_an_older_page_left_does_no_harm(self):
        reader = self.reader
        reader.run("localStorage.setItem('quern.settings', '{\"think\": 1, \"system\": [], \"temperature\": \"0\"}');"
                   "sessionStorage.setItem('quern.turns', '[{\"role\": \"none\"}, null]')")
        reader.driver.refresh()
        reader.ask("Hello!")
        self.assertEqual(reader.texts(".prose"), ["Hello! How can I help you today?"])

    # --- settings

    def test_the_system_prompt_is_used(self):
        reader = self.reader
        reader.click("#think")
        reader.click("#open-settings")
        reader.write("#system", "End every answer with the word 'over'.")
        reader.click("#settings .actions .main")
        reader.ask("What is the capital of Japan?")
        self.assertEqual(reader.text(".prose"), "The capital of Japan is Tokyo. over")

    def test_sampling(self):
        reader = self.reader
        reader.click("#open-settings")
        reader.click("#temperature-auto")
        self.assertEqual(reader.one("#temperature-shown").text, "the model’s own")
        reader.one("#temperature").send_keys("\ue014" * 2)  # to the right
        reader.click("#settings summary")
        reader.write("#max_tokens", "5")
        reader.click("#settings .actions .main")
        reader.run("window.bodies = []; const real = fetch; window.fetch = (path, options) => {"
                   "if (options?.body) bodies.push(JSON.parse(options.body)); return real(path, options); }")
        reader.ask("Hello!")
        self.assertEqual(reader.text(".note"), "Cut off: the limit of tokens is reached.")
        body, = reader.run("return bodies")
        self.assertEqual((body["temperature"], body["max_tokens"], "top_p" in body), (0.8, 5, False))

    def test_json(self):
        reader = self.reader
        reader.ask(JSON_PROMPT)
        self.assertEqual(reader.text(".prose pre"), '{\n  "name": "Ada",\n  "age": 36,\n  "city": "London"\n}')
        self.assertIn("mono", reader.one(".prose pre").value_of_css_property("font-family").lower())
        reader.click(".prose summary")
        self.assertFalse(reader.one(".prose pre").is_displayed())
        text = '{"2": [], "1": {"a b": [12345678901234567890, {}, "\\"[,:]"]}, "1": null}'
        reader.fake_answer([{"content": text}])
        reader.ask("More JSON")
        shown = reader.texts(".prose pre")[-1]
        self.assertEqual(shown, '{\n  "2": [],\n  "1": {\n    "a b": [\n      12345678901234567890,\n      {},\n'
                                '      "\\"[,:]"\n    ]\n  },\n  "1": null\n}')

    def test_tools(self):
        reader = self.reader
        reader.click("#open-settings")
        reader.click("#settings summary")
        reader.write("#tools", "[{")
        self.assertIn("This is no JSON", reader.text("#tools-wrong"))
        reader.click("#settings .actions .main")
        reader.say("Hello!")
        self.assertTrue(reader.one("#tools").is_displayed())  # it must be put right first
        self.assertEqual((reader.all(".turn"), reader.one("#input").get_property("value")), ([], "Hello!"))
        reader.write("#tools", WEATHER.replace("\n", " "))
        reader.press("\ue00c")
        reader.ask("What is the weather in Oslo and in Rome?")
        self.assertEqual(reader.texts(".call pre"), ['{\n  "city": "Oslo"\n}', '{\n  "city": "Rome"\n}'])
        for field, result in zip(reader.all(".results textarea"),
                                 ('{"temperature": 4, "sky": "snowy"}', '{"temperature": 21, "sky": "sunny"}')):
            field.send_keys(result)
        reader.click(".results button")
        reader.wait(lambda: len(reader.all(".answer")) == 2 and reader.is_idle(), "an answer from the results")
        self.assertEqual(reader.texts(".prose")[-1], "It is snowy in Oslo with a temperature of 4 degrees. "
                                                     "It is sunny in Rome with a temperature of 21 degrees.")
        self.assertEqual(reader.texts(".result pre")[0], '{\n  "temperature": 4,\n  "sky": "snowy"\n}')

    def test_a_call_that_was_cut(self):
        reader = self.reader
        call = {"index": 0, "id": "1", "function": {"name": "get_weather", "arguments": '{"city": "Os'}}
        reader.fake_answer([{"tool_calls": [call]}])
        reader.ask("What is the weather in Oslo?")
        self.assertEqual((reader.text(".call pre"), reader.all(".results")), ('{"city": "Os', []))
        reader.ask("Hello!")  # with it in the history the server would refuse
        self.assertEqual(len(reader.all(".answer")), 2)

    # --- text

    def test_markdown(self):
        reader = self.reader
        text = ("# Mill\n\nOne **two** *three* `f*o*o`\nnext [link](https://example.org/a_b_c) https://example.org/x.\n\n"
                "1. first\n   - inner\n   - other\n2. second\n\n> said\n\n| a | b |\n|:--|--:|\n| 1 | 2 |\n\n"
                "```c\nint x = 1; // **not bold** <b>\n```\nend")
        reader.fake_answer([{"content": letter} for letter in text])
        reader.ask("Markdown")
        found = {name: reader.texts(f".prose {name}") for name in ("h3", "strong", "em", ":not(pre) > code", "a", "ol > li",
                                                                   "ul > li", "blockquote", "th", "td", "pre", "p")}
        self.assertEqual(found, {
            "h3": ["Mill"], "strong": ["two"], "em": ["three"], ":not(pre) > code": ["f*o*o"], "ul > li": ["inner", "other"],
            "a": ["link", "https://example.org/x"], "ol > li": ["firstinnerother", "second"], "blockquote": ["said"],
            "th": ["a", "b"], "td": ["1", "2"], "pre": ["int x = 1; // **not bold** <b>"],
            "p": ["One two three f*o*onext link https://example.org/x.", "said", "end"]})
        reader.driver.execute_cdp_cmd("Browser.grantPermissions",
                                      {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
        reader.click(".prose figure .icon")
        reader.wait(lambda: reader.all(".prose figure [href='#i-check']"), "a mark that it was copied")
        self.assertEqual(reader.run("return navigator.clipboard.readText()"), "int x = 1; // **not bold** <b>")

    def test_hostile_text(self):
        reader = self.reader
        text = ("<img src=x onerror=window.hit=1><script>window.hit=1</script> [a](javascript:window.hit=1) "
                "[b](data:text/html,x) ![c](https://example.org/c.png) <https://example.org> **<i>d</i>**\n\n"
                "<svg onload=window.hit=1>\n\n```<b>\n</code></pre><img src=x onerror=window.hit=1>\n```\n"
                + "> " * 3000 + "deep\n\n" + "- " * 3000 + "deep\n\n" + "`*_[" * 3000)
        reader.fake_answer([{"reasoning_content": text}, {"content": text},
                            {"tool_calls": [{"index": 0, "id": "1", "function": {"name": text[:60], "arguments": text}}]}])
        reader.ask(text[:200])
        self.assertIsNone(reader.run("return window.hit ?? null"))
        self.assertEqual(reader.all("#turns :is(img, script, i, b, iframe, style)"), [])
        links = reader.run("return [...document.querySelectorAll('#turns a')].map(link => link.protocol + link.rel)")
        self.assertTrue(links)
        self.assertEqual(set(links), {"https:noopener noreferrer nofollow"})
        self.assertIn("<script>window.hit=1</script>", reader.texts(".prose")[0])

    def test_long_answers_stay_smooth(self):
        reader = self.reader
        words = [{"content": f"word{i} " if i % 60 else "\n\n"} for i in range(10000)]
        reader.run("window.worst = 0; let last = performance.now(); (function tick() { const now = performance.now();"
                   "worst = Math.max(worst, now - last); last = now; requestAnimationFrame(tick); })()")
        reader.fake_answer(words)
        reader.ask("Write much")
        self.assertEqual(len(reader.all(".prose p")), 167)
        self.assertTrue(reader.text(".figures").startswith("10,000 tokens"))
        self.assertLess(reader.run("return worst"), 1000)  # 100 ms alone
        reader.wait(lambda: reader.run("return innerHeight + scrollY >= document.documentElement.scrollHeight - 2"), "the end")

    def test_scrolling_stays_where_the_reader_is(self):
        reader = self.reader
        reader.fake_answer([{"content": f"Line {i}.\n\n"} for i in range(150)], 5)
        reader.say("Lines")
        reader.wait(lambda: reader.run("return scrollY") > 300, "a longer page than the screen")
        reader.run("scrollTo(0, 100)")
        reader.wait(lambda: reader.one("#down").is_displayed(), "the way back to the end")
        height = reader.run("return document.documentElement.scrollHeight")
        reader.wait(lambda: reader.run("return document.documentElement.scrollHeight") > height, "more lines")
        self.assertEqual(reader.run("return scrollY"), 100)
        reader.click("#down")
        reader.wait(reader.is_idle, "the end of the answer")
        self.assertTrue(reader.run("return innerHeight + scrollY >= document.documentElement.scrollHeight - 2"))
        self.assertFalse(reader.one("#down").is_displayed())

    # --- looks

    def test_light_and_dark(self):
        reader = self.reader
        ground = lambda: sum(map(int, re.findall(r"\d+", reader.one("body").value_of_css_property("background-color"))[:3]))
        self.assertGreater(ground(), 700)
        reader.prefer("dark")
        self.assertLess(ground(), 100)
        reader.click("#theme")
        self.assertGreater(ground(), 700)
        reader.driver.refresh()
        self.assertGreater(ground(), 700)  # remembered
        reader.click("#theme")
        self.assertLess(ground(), 100)
        self.assertIsNone(reader.run("return localStorage.getItem('quern.theme')"))  # as the system again

    def test_a_phone(self):
        reader = self.reader
        reader.show(self.server.url, **PHONE)
        table = "| " + " | ".join(f"column {i}" for i in range(12)) + " |\n" + "|--" * 12 + "|"
        text = "\n\n".join(["Long" * 200, table, "```\n" + "x" * 900 + "\n```"])
        fits = lambda: self.assertEqual(reader.run("return document.documentElement.scrollWidth"), 390)
        fits()
        reader.fake_answer([{"reasoning_content": "y" * 900}, {"content": text}])
        reader.ask("z" * 500)
        reader.run("scrollTo(0, 0)")
        reader.click(".reasoning summary")
        fits()
        self.assertFalse(reader.one(".hint").is_displayed())
        reader.click("#open-settings")
        reader.click("#settings summary")
        fits()
        sizes = reader.run("return [...document.querySelectorAll('input, textarea, select')].map(field => "
                           "parseFloat(getComputedStyle(field).fontSize))")
        self.assertGreaterEqual(min(sizes), 16)  # a phone zooms in on smaller ones

    def test_keys_alone(self):
        reader = self.reader
        focus = lambda: reader.run("return document.activeElement.id || document.activeElement.ariaLabel")
        tab_to = lambda wanted, key: reader.wait(lambda: focus() == wanted or reader.press(key), f"the focus of {wanted}", 10)
        self.assertEqual(focus(), "input")
        reader.press("Hel", "\ue008\ue007\ue000", "lo!")  # Shift Enter
        self.assertEqual(reader.one("#input").get_property("value"), "Hel\nlo!")
        reader.write("#input", "What is 478 + 356?")
        reader.press("\ue007")
        reader.wait(lambda: reader.texts(".prose") == ["834"] and reader.is_idle(), "an answer")
        self.assertEqual((focus(), reader.one("#input").get_property("value")), ("input", ""))
        tab_to("Answer again", "\ue008\ue004\ue000")  # Shift Tab
        self.assertNotEqual(reader.driver.switch_to.active_element.value_of_css_property("outline-style"), "none")
        reader.press("\ue007")
        reader.wait(lambda: reader.texts(".prose") == ["834"] and reader.is_idle(), "another answer")
        tab_to("open-settings", "\ue008\ue004\ue000")
        reader.press("\ue007")
        self.assertTrue(reader.one("#settings").is_displayed())
        reader.press("\ue00c")
        self.assertFalse(reader.one("#settings").is_displayed())
        self.assertEqual(focus(), "open-settings")
        unnamed = reader.run("return [...document.querySelectorAll('button, input, textarea, select')].filter(field => "
                             "!field.ariaLabel && !field.textContent.trim() && !field.labels?.length).length")
        self.assertEqual(unnamed, 0)

    def test_right_to_left(self):
        reader = self.reader
        reader.fake_answer([{"content": "שלום עולם\n\nHello"}])
        reader.ask("مرحبا")
        directions = reader.run("return ['.bubble', '.prose p', '.prose p + p'].map(part => "
                                "getComputedStyle(document.querySelector(part)).direction)")
        self.assertEqual(directions, ["rtl", "rtl", "ltr"])

    # --- what goes wrong

    def test_a_refusal_is_told(self):
        reader = self.reader
        reader.click("#open-settings")
        reader.click("#settings summary")
        reader.write("#schema", '{"type": "object", "not": {}}')
        reader.press("\ue00c")
        reader.say("Hello!")
        notice = reader.wait(lambda: reader.all(".notice"), "an error")[0]
        self.assertEqual(notice.get_attribute("role"), "alert")
        self.assertIn("The server refuses this.", notice.text)
        self.assertIn("not", notice.text)
        reader.click("#open-settings")
        reader.click("#reset")
        reader.press("\ue00c")
        reader.click(".notice button")
        reader.wait(lambda: reader.all(".prose p"), "an answer")
        self.assertEqual(reader.all(".notice"), [])

    def test_a_key_a_full_queue_and_no_server(self):
        reader, server = self.reader, Server("--api-key", "k", "--max-seqs", "1", "--max-queue", "1")
        self.addCleanup(server.stop)
        self.origins.add(origin(server.url))
        reader.show(server.url)
        reader.wait(lambda: reader.one("#key-dialog").is_displayed(), "the question for a key")
        reader.press("wrong", "\ue007")
        reader.wait(lambda: "does not accept" in reader.text("#key-why"), "the second one")
        reader.press("\ue00c")
        reader.say("What is 478 + 356?")
        reader.wait(lambda: reader.one("#key-dialog").is_displayed(), "the third")
        self.assertIn("does not accept this API key", reader.text(".notice"))
        reader.press("k", "\ue007")
        reader.wait(lambda: reader.texts(".prose") == ["834"] and reader.is_idle(), "what was asked for")
        self.assertEqual(reader.text("#model"), "demo")
        stored = reader.run("return [sessionStorage.getItem('quern.key'), JSON.stringify(localStorage).includes('key')]")
        self.assertEqual(stored, ["k", False])

        headers = {"Content-Type": "application/json", "x-api-key": "k"}
        busy = [server.connect() for _ in range(2)]
        for connection in busy:
            connection.request("POST", "/v1/completions", '{"prompt": "a", "max_tokens": 4000, "ignore_eos": true}', headers)
        server.wait_for_live(lambda running, waiting, usage: (running, waiting) == (1, 1))
        reader.say("Hello!")
        notice = reader.wait(lambda: reader.all(".notice"), "an error")[0]
        self.assertIn("The server is busy", notice.text)
        for connection in busy:
            connection.close()
        server.wait_for_live(lambda running, waiting, usage: running + waiting == 0)
        reader.click(".notice button")
        reader.wait(lambda: len(reader.all(".prose p")) == 2 and reader.is_idle(), "an answer at last")

        server.stop()
        reader.say("Hello!")
        notice = reader.wait(lambda: reader.all(".notice"), "an error")[0]
        self.assertIn("The server does not answer", notice.text)
        reader.wait(lambda: reader.text("#model") == "no connection", "its state")
        self.assertEqual(reader.texts(".bubble")[-1], "Hello!")


def origin(address):
    return "://".join(urllib.parse.urlsplit(address)[:2])


if __name__ == "__main__":
    unittest.main()
