"""The page of `ask.py --web`: what its server takes and refuses, and the page in a real browser."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

import ask
from flags import HERE, TASKS, InputError

pytest.importorskip("flask", reason="the page needs requirements-web.txt")
ask_web = pytest.importorskip("ask_web", reason="the page needs requirements-web.txt")

STORY = "Mary went to the kitchen.\nJohn moved to the garden."
QUESTION = "Where is Mary?"
MARKUP = "<img src=x onerror=\"document.title='broken'\"><b>Mary</b> &amp; <script>document.title='broken'</script>"


@pytest.fixture(scope="session")
def app(answerer, trained):
    return ask_web.make_app(answerer, ask_web.examples(trained.data_dir, [1]), top=ask.TOP)


@pytest.fixture
def client(app):
    return app.test_client()


def post(client, story=STORY, question=QUESTION, **arguments):
    return client.post("/answer", json={"story": story, "question": question}, **arguments)


# The server -------------------------------------------------------------------------------------


def test_a_question_is_answered(client):
    found = post(client)
    assert found.status_code == 200 and found.json["answer"] == "kitchen"
    assert [row["statement"] for row in found.json["memory"]] == STORY.split("\n")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"story": "a " * 1001, "question": QUESTION}, "expected a sentence of 1 to 1,000 words"),
        ({"story": STORY, "question": "a " * 1001}, "expected a sentence of 1 to 1,000 words"),
        ({"story": STORY, "question": "  "}, "Expected a question"),
        ({"story": STORY, "question": "?"}, "expected a sentence"),
        ({"story": [STORY], "question": QUESTION}, "two texts"),
        ({"story": STORY}, "two texts"),
        ([], "two texts"),
        ("story", "two texts"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(client, body, said):
    refused = client.post("/answer", json=body)
    assert refused.status_code == 400 and said in refused.json["error"]


def test_deeply_nested_json_is_refused_in_a_sentence(client):
    refused = client.post("/answer", data=90_000 * "[" + 90_000 * "]", content_type="application/json")
    assert refused.status_code == 400 and "two texts" in refused.json["error"]


def test_a_statement_that_looks_like_a_question_is_remarked(client):
    answer = post(client, story=f"{STORY}\nWhere is Bob")
    assert "This is read as a statement, because it does not end in '?': Where is Bob" in answer.json["remarks"]


def test_other_forms_of_requests_are_refused(client):
    for content_type in ("text/plain", "application/x-www-form-urlencoded", None):
        refused = client.post("/answer", data='{"story": "", "question": "Who?"}', content_type=content_type)
        assert refused.status_code == 415 and "JSON" in refused.json["error"]
    assert client.post("/answer", data="{", content_type="application/json").status_code == 400
    for path in ("/answer", "/ask.py", "/../ask.py", "/%2e%2e/ask.py", "/..%2fask.py"):
        assert client.get(path).status_code == 404
    too_large = post(client, story="a" * ask_web.LONGEST_BODY)
    assert too_large.status_code == 413 and "too long" in too_large.json["error"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("192.168.1.7", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:8000", 403),
    ],
)
def test_other_names_than_ours_are_refused(client, host, status):
    """A page elsewhere that points its name at this machine gets nothing."""
    assert client.get("/", headers={"Host": host}).status_code == status
    assert post(client, headers={"Host": host}).status_code == status


def test_a_name_that_was_asked_for_is_ours(answerer):
    client = ask_web.make_app(answerer, [], top=4, host="Box.local").test_client()
    assert client.get("/", headers={"Host": "box.local:8000"}).status_code == 200


def test_every_response_forbids_foreign_and_inline_parts(client):
    for response in (client.get("/"), client.get("/ask.js"), client.get("/nowhere"), post(client)):
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_needs_no_other_machine(client):
    for path in ("/", "/ask.css", "/ask.js"):
        assert not re.search(r"https?://|@import|url\(", client.get(path).text)


@pytest.fixture(scope="module")
def server(app):
    """The page as it is served, at `server.effective_port`."""
    server = ask_web.create_server(app, "127.0.0.1", 0)
    threading.Thread(target=server.run, daemon=True).start()
    yield server
    server.close()


def test_a_port_that_is_taken_is_one_sentence(server):
    with pytest.raises(InputError, match="cannot be served at"):
        ask_web.create_server(None, "127.0.0.1", server.effective_port)


def unfinished(port, connections):
    """Connections that never finish their headers."""
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    for connection in sockets:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
    return sockets


def test_connections_without_a_request_do_not_block_the_page(server):
    sockets = unfinished(server.effective_port, 150)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.effective_port}/", timeout=5) as page:
            assert page.status == 200
    finally:
        for connection in sockets:
            connection.close()


def test_connections_without_a_request_are_closed(app, monkeypatch):
    monkeypatch.setattr(ask_web, "IDLE_SECONDS", 1)
    server = ask_web.create_server(app, "127.0.0.1", 0)
    threading.Thread(target=server.run, daemon=True).start()
    (connection,) = unfinished(server.effective_port, 1)
    try:
        connection.settimeout(10)
        assert connection.recv(1) == b""
    finally:
        connection.close()
        server.close()
    assert server.adj.channel_timeout == 1 and ask_web.IDLE_SECONDS <= 30


def test_a_signal_ends_the_page(trained, stop=signal.SIGTERM):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = os.path.join(HERE, "ask.py")
    arguments = ["--web", "--port", str(port), "--model", trained.model, "--data_dir", trained.data_dir]
    process = subprocess.Popen(
        [sys.executable, script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == f"Ask at http://127.0.0.1:{port}/ (Ctrl-C ends it).\n"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/ask.css", timeout=10) as style:
        assert style.status == 200
    process.send_signal(stop)
    start = time.monotonic()
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (128 + stop, "\nask.py: stopped.\n")
    assert time.monotonic() - start < 2


# Examples ---------------------------------------------------------------------------------------


def test_examples_are_simulated_where_there_are_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(ask_web.corpus, "PUBLISHED", str(tmp_path / "nowhere"))
    tasks = ask_web.examples(None, TASKS)
    assert [task["number"] for task in tasks] == list(range(1, 21))
    for task in tasks:
        assert len(task["examples"]) == ask_web.EXAMPLES
        assert all(example["question"] and example["truth"] for example in task["examples"])


def test_examples_come_from_the_folder_given(small_corpus, tmp_path):
    tasks = ask_web.examples(small_corpus, TASKS)
    assert [task["number"] for task in tasks] == [1, 2]
    text = " ".join(path.read_text() for path in small_corpus.glob("*_test.txt"))
    for task in tasks:
        for example in task["examples"]:
            assert example["question"] in text and all(statement in text for statement in example["story"])
    with pytest.raises(InputError, match="expected a folder of bAbI test files"):
        ask_web.examples(tmp_path, [1])


# The browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """A headless chromium with the viewport of a phone."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="driving a browser needs selenium")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # As root, chromium starts only without its sandbox; the page under test is our own.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield browser
    browser.quit()


@pytest.fixture
def address(server):
    return f"http://127.0.0.1:{server.effective_port}/"


class Page:
    """The page as a person uses it."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)
        self.wait(lambda: self.value("story"))

    def wait(self, condition):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 20, poll_frequency=0.05).until(lambda _: condition())

    def at(self, name):
        return self.browser.find_element("id", name)

    def value(self, name):
        return self.at(name).get_property("value")

    def choose(self, name, number):
        from selenium.webdriver.support.ui import Select

        Select(self.at(name)).select_by_index(number)

    def write(self, name, text):
        self.browser.execute_script("arguments[0].value = arguments[1]", self.at(name), text)  # typing takes seconds

    def ask(self):
        """Asks, and waits for an answer or an error."""
        self.browser.execute_script("for (const id of ['result', 'error']) document.getElementById(id).hidden = true")
        self.at("ask").click()
        self.wait(lambda: self.at("result").is_displayed() or self.at("error").is_displayed())

    def memory(self):
        """For each row of the table: its statement, its numbers, and how opaque the blue of its cells is."""
        return self.browser.execute_script(
            """return [...document.querySelectorAll("#memory tr")].map((row) => [
                 row.querySelector("th").textContent,
                 [...row.querySelectorAll("td")].map((cell) => cell.textContent),
                 [...row.querySelectorAll("td")].map((cell) => getComputedStyle(cell).backgroundColor),
               ])"""
        )


@pytest.fixture
def page(browser, address):
    page = Page(browser, address)
    yield page
    assert browser.title == "Ask a memory network"
    # Chromium reports every refused request and every broken rule of the policy; a 400 or 413 is meant to be.
    said = [entry["message"] for entry in browser.get_log("browser")]
    assert not [message for message in said if "the server responded with a status of 4" not in message]
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= 360


def opacity(color):
    """The blue of a cell: 0 for none, 1 for all; browsers spell the two ends without it."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", color)]
    assert numbers[:3] in ([96, 165, 235], [0, 0, 0])
    return numbers[3] if len(numbers) == 4 else 1.0


def test_an_example_is_picked_and_asked(page, answerer, trained):
    page.choose("example", 2)
    (task,) = ask_web.examples(trained.data_dir, [1])
    example = task["examples"][2]
    assert page.value("story") == "\n".join(example["story"]) and page.value("question") == example["question"]
    page.ask()
    (expected,) = answerer.answer([(example["story"], example["question"])])
    assert page.at("answer").text == expected.answer
    assert page.at("truth").text.startswith("Right" if expected.answer == example["truth"] else "Wrong")
    assert [line.split()[0] for line in page.at("top").text.split("\n") if line[0].isalpha()] == (
        [word for word, _ in expected.top]
    )
    rows = page.memory()
    assert [row[0] for row in rows] == [*example["story"], "(empty slots)"]
    for (_, numbers, colors), weights in zip(rows, [*expected.attention, expected.empty], strict=True):
        assert numbers == [f"{float(weight):.2f}" for weight in weights]
        assert [opacity(color) for color in colors] == pytest.approx(list(weights), abs=0.01)


def test_every_number_can_be_read_on_its_background(page):
    """The contrast of WCAG 2; 7 to 1 is its enhanced level."""
    page.ask()
    contrasts = page.browser.execute_script(
        """const luminance = (color, under) => {
             const [r, g, b, alpha = 1] = color.match(/[\\d.]+/g).map(Number);
             const linear = [r, g, b].map((c) => (alpha * c + (1 - alpha) * under) / 255)
               .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
             return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
           };
           return Array.from({ length: 101 }, (_, hundredth) => {
             at("memory").replaceChildren(row("statement", [hundredth / 100]));
             const style = getComputedStyle(at("memory").querySelector("td"));
             const [a, b] = [luminance(style.color, 255), luminance(style.backgroundColor, 255)];
             return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
           });"""
    )
    assert len(contrasts) == 101 and min(contrasts) > 7


def test_a_story_of_ones_own(page):
    page.write("story", STORY)
    page.write("question", QUESTION)
    page.ask()
    assert page.at("answer").text == "kitchen" and not page.at("truth").is_displayed()
    mary, john, _ = page.memory()
    assert max(map(opacity, mary[2])) > 0.5 > max(map(opacity, john[2]))


def test_markup_is_shown_as_text(page):
    page.write("story", f"{STORY}\n{MARKUP}")
    page.write("question", f"{MARKUP} Where is Mary?")
    page.ask()
    assert page.memory()[2][0] == MARKUP
    assert "onerror" in page.at("remarks").text  # named as a word it does not know
    assert page.browser.execute_script("return document.querySelectorAll('main img, main b, main script').length") == 0


def test_an_empty_story(page):
    page.write("story", "")
    page.write("question", QUESTION)
    page.ask()
    assert page.at("answer").text and [row[0] for row in page.memory()] == ["(empty slots)"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("story", "word " * 5_000, "expected a sentence of 1 to 1,000 words"),
        ("story", "word " * 100_000, "The text is too long"),
        ("question", "", "Expected a question, found none."),
    ],
)
def test_what_cannot_be_asked_is_said(page, name, text, said):
    page.write(name, text)
    page.ask()
    assert said in page.at("error").text and not page.at("result").is_displayed()


def test_a_very_long_word_and_a_very_long_story_fit_the_screen(page, answerer):
    room = answerer.config["memory_size"]
    page.write("story", "\n".join(["John went to the office."] * room + ["x" * 1000]))
    page.ask()
    assert len(page.memory()) == room + 1
    assert "the oldest statement is dropped" in page.at("remarks").text
