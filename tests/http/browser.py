"""A headless Chromium that looks at one page, and helpers to act as its reader."""
import json
import shutil
import subprocess
import time

START = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking",
         "--window-size=1280,800")

# The next POST of the page is answered with these deltas, one each few milliseconds.
FAKE_ANSWER = """
const [deltas, milliseconds] = arguments, real = window.fetch, encoder = new TextEncoder();
const event = (delta, finish, n) => encoder.encode("data: " + JSON.stringify({
    choices: [{index: 0, delta, finish_reason: finish}], usage: {completion_tokens: n}}) + "\\n\\n");
window.fetch = (path, options) => {
    if (options?.method !== "POST") return real(path, options);
    window.fetch = real;
    let i = 0;
    return Promise.resolve(new Response(new ReadableStream({async pull(controller) {
        for (let n = milliseconds ? 1 : 20; n > 0 && i < deltas.length; n--) controller.enqueue(event(deltas[i++], null, i));
        if (i < deltas.length) return new Promise(resolve => setTimeout(resolve, milliseconds));
        controller.enqueue(event({}, "stop", i));
        controller.enqueue(encoder.encode("data: [DONE]\\n\\n"));
        controller.close();
    }})));
};
"""


def find():
    """The paths of the browser and its driver, and why there is none."""
    driver = shutil.which("chromedriver")
    for name in ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser"):
        path = shutil.which(name)
        if path is None:
            continue
        # What Ubuntu calls by this name is a snap, or a script that asks for one.
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60)
        if said.returncode == 0 and "Chrom" in said.stdout and "/snap/" not in said.stdout:
            return (path, driver, None) if driver else (None, None, f"needs chromedriver, beside {name}")
    return None, None, "needs Chromium (or Chrome) and chromedriver"


class Reader:
    """Someone who looks at a page. Elements are named by CSS selectors."""

    def __init__(self, path, driver):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
        options = webdriver.ChromeOptions()
        options.binary_location = path
        for argument in START:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.run = self.driver.execute_script

    def close(self):
        self.driver.quit()

    def show(self, url, settings=None, **screen):
        """The page as it is at the first visit, but for what the reader has set before."""
        screen = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False, **screen}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": screen["mobile"]})
        self.prefer("light")
        self.driver.get(url)
        self.run("localStorage.clear(); sessionStorage.clear();"
                 "localStorage.setItem('quern.settings', arguments[0])", json.dumps(settings or {"temperature": "0"}))
        self.driver.get(url)

    def prefer(self, scheme):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                    {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def text(self, selector):
        return self.one(selector).text

    def texts(self, selector):
        return [element.get_property("textContent") for element in self.all(selector)]

    def click(self, selector):
        self.one(selector).click()

    def write(self, selector, text):
        """Replaces what the field has."""
        field = self.one(selector)
        field.clear()
        field.send_keys(text)

    def press(self, *keys):
        """Keys to what has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def say(self, text):
        self.write("#input", text)
        self.click("#send")

    def ask(self, text):
        """Says it, and waits for the whole answer."""
        n = len(self.all(".answer"))
        self.say(text)
        self.wait(lambda: len(self.all(".answer")) > n and self.is_idle(), f"an answer to {text!r}")

    def is_idle(self):
        return self.one("#stop").get_property("hidden")

    def fake_answer(self, deltas, milliseconds=0):
        self.run(FAKE_ANSWER, deltas, milliseconds)

    def wait(self, condition, what, seconds=30):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = condition()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"the page did not come to {what}; it shows:\n{self.text('body')}")

    def requested(self):
        """The addresses of all requests of the page so far."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]

    def complaints(self):
        """What the console holds, without the failed requests that a test wanted."""
        return [entry["message"] for entry in self.driver.get_log("browser")
                if "Failed to load resource" not in entry["message"]]
