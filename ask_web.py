"""The page of `ask.py --web`: Flask answers its requests, waitress serves them.

Waitress takes the place of Flask's own server, which is for development only. It is plain Python without further
packages, and limits how much a client can make it hold. The page is meant for one person.

The page is `web/ask.html` with `ask.css` and `ask.js`; nothing comes from other machines. Text goes in and out as JSON,
and the page inserts it as text.
"""

import contextlib
import ipaddress
import itertools
import os
import sys
import threading
import urllib.parse

import flask
import waitress

import corpus
import data_utils
from flags import HERE, TASK_NAMES, InputError

LONGEST_BODY = 200_000  # bytes of a story and its question
IDLE_SECONDS = 10  # after which a connection without a complete request is closed
EXAMPLES = 5  # stories of each task to pick from
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",  # the page is small, and a reload must show a new version
}


def examples(data_dir, tasks):
    """Stories of each task to pick from: of a folder of bAbI files, else of the published corpus, else simulated.

    Returns:
        A list of dicts: the task's `number` and `name`, and a list `examples` of dicts with `story`, a list of
        sentences, `question` and `truth`.

    Raises:
        InputError: the given folder has no file of any of the tasks, or a file is malformed.
    """
    folder = data_dir or corpus.PUBLISHED
    examples_of_tasks = []
    for task in tasks:
        path = data_utils.task_file(folder, task, "test") if os.path.isdir(folder) else None
        if path:
            questions = data_utils.parse_text(data_utils.read_lines(path), path, plain=True)
        elif data_dir is None:
            questions = corpus.simulated_questions(task, 10 * EXAMPLES)
        else:
            continue
        stories = [[*story] for _, story in itertools.groupby(questions, lambda question: question.story)][:EXAMPLES]
        middle = [story[len(story) // 2] for story in stories]
        chosen = [{"story": q.statements, "question": q.question, "truth": q.answer} for q in middle]
        examples_of_tasks.append({"number": task, "name": TASK_NAMES[task], "examples": chosen})
    if not examples_of_tasks:
        raise InputError(f"{data_dir}: expected a folder of bAbI test files (qa1_..._test.txt), found none.")
    return examples_of_tasks


def make_app(answerer, examples, top, host="127.0.0.1"):
    """The Flask application with the page, `/examples` (what the function `examples` returned) and `/answer`.

    `host` is the address or name it is served at; for `answerer` and `top` see `ask.Answerer`.
    """
    app = flask.Flask(__name__, static_folder=os.path.join(HERE, "web"), static_url_path="")
    app.config["MAX_CONTENT_LENGTH"] = LONGEST_BODY

    @app.before_request
    def refuse_foreign_hosts():
        # Another site can point its own name at this machine, to talk to this server as if it were its own
        # (DNS rebinding). The browser then sends that name; an address cannot be pointed anywhere.
        if not _is_own_host(flask.request.host, host):
            return {"error": f"This server answers to localhost, {host} and IP addresses, not to other names."}, 403

    @app.after_request
    def add_headers(response):
        response.headers.update(HEADERS)
        return response

    @app.errorhandler(413)
    def too_large(error):
        return {"error": f"The text is too long: at most {LONGEST_BODY} bytes can be read."}, 413

    @app.get("/")
    def page():
        return app.send_static_file("ask.html")

    @app.get("/examples")
    def send_examples():
        return {"tasks": examples}

    @app.post("/answer")
    def answer():
        # Without asking, other sites can send a form, or JSON labelled as plain text, but not JSON labelled as JSON.
        if flask.request.mimetype != "application/json":
            return {"error": "Expected a request in JSON (Content-Type: application/json)."}, 415
        try:
            body = flask.request.get_json(silent=True)
        except RecursionError:  # deeply nested JSON
            body = None
        try:
            (answer,) = answerer.answer([_story_and_question(body)], top)
        except InputError as error:
            return {"error": str(error)}, 400
        return answer.as_dict()

    return app


def _is_own_host(host_header, host):
    """Whether a Host header is localhost, an IP address or the name given with --host."""
    with contextlib.suppress(ValueError):
        name = urllib.parse.urlsplit(f"//{host_header}").hostname
        return name in ("localhost", host.lower()) or ipaddress.ip_address(name) is not None
    return False


def _story_and_question(body):
    """(statements, question) of a request's body, or InputError."""
    story, question = (body.get(name) if isinstance(body, dict) else None for name in ("story", "question"))
    if not isinstance(story, str) or not isinstance(question, str):
        raise InputError('Expected an object with two texts, "story" and "question".')
    if not question.strip():
        raise InputError("Expected a question, found none.")
    return [line for line in story.splitlines() if line.strip()], question


def create_server(app, host, port):
    """A waitress server for an application; InputError if nothing can listen at this address."""
    limits = dict(
        max_request_body_size=10 * LONGEST_BODY,  # beyond LONGEST_BODY, the application says what is wrong
        connection_limit=500,  # more have to wait
        channel_timeout=IDLE_SECONDS,
        cleanup_interval=1,
        asyncore_use_poll=True,
    )
    try:
        return waitress.create_server(app, host=host, port=port, ident=None, threads=2, **limits)
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise InputError(f"{host}, port {port}: cannot be served at: {reason}; change --host or --port.") from error


def serve(answerer, examples, top, host, port):
    """Serves the page until Ctrl-C; see `make_app` and `create_server`."""
    server = create_server(make_app(answerer, examples, top, host), host, port)
    address = f"[{host}]" if ":" in host else host
    print(f"Ask at http://{address}:{port}/ (Ctrl-C ends it).", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1"):
        print("Other machines can reach it, too.", file=sys.stderr)
    thread = threading.Thread(target=server.run, daemon=True)  # in the main thread, `run` would swallow Ctrl-C
    thread.start()
    thread.join()
