"""The page of `ask.py --web`: Flask answers its requests, waitress serves them.

Waitress, because the server that comes with Flask is for development only, and says so at every start; waitress
is plain Python without further packages, and limits what a client can make it hold.

The page is `ask.html` with `ask.css` and `ask.js`; nothing comes from other machines. A person's text goes in and out
as JSON, and the page puts it in place as text.
"""

import ipaddress
import sys
from pathlib import Path

import flask
import waitress

from data_utils import InputError

HERE = Path(__file__).resolve().parent
LONGEST_STORY = 20_000  # characters
LONGEST_QUESTION = 300
LONGEST_BODY = 200_000  # bytes, which holds the two in any script and any JSON spelling
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",  # the page is small, and a new version should be seen
}


def make_app(answerer, examples, top, host="127.0.0.1"):
    """The Flask application.

    Args:
        answerer: `ask.Answerer`.
        examples: list of tasks as `ask.examples` gives it.
        top: how many words to give for an answer.
        host: the address or name it is served at.

    Returns:
        A `flask.Flask` with the page, `/examples` and `/answer`.
    """
    app = flask.Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LONGEST_BODY

    @app.before_request
    def refuse_strange_hosts():
        # A page elsewhere may point its own name at this machine, to talk to this server as if it were its own
        # (DNS rebinding). The browser then sends that name; an address cannot be pointed anywhere.
        if not _is_ours(flask.request.host, host):
            return {"error": f"This server answers to localhost, {host} and addresses, not to other names."}, 403

    @app.after_request
    def add_headers(response):
        response.headers.update(HEADERS)
        return response

    @app.errorhandler(404)
    def not_there(error):
        return {"error": "There is no such page."}, 404

    @app.errorhandler(413)
    def too_large(error):
        return {"error": f"The text is too long: at most {LONGEST_STORY} characters can be read."}, 413

    @app.get("/")
    def page():
        return flask.send_file(HERE / "ask.html")

    @app.get("/ask.css")
    def style():
        return flask.send_file(HERE / "ask.css")

    @app.get("/ask.js")
    def script():
        return flask.send_file(HERE / "ask.js", mimetype="text/javascript")

    @app.get("/examples")
    def give_examples():
        return {"tasks": examples}

    @app.post("/answer")
    def answer():
        # Other sites can send a form, or JSON that is called plain text, without asking; JSON by its name they cannot.
        if flask.request.mimetype != "application/json":
            return {"error": "Expected a request in JSON (Content-Type: application/json)."}, 415
        try:
            statements, question = _asked(flask.request.get_json(silent=True))
            (found,) = answerer.answer([(statements, question)], top)
        except InputError as error:
            return {"error": str(error)}, 400
        return found.as_dict()

    return app


def _is_ours(host_header, host):
    """Whether a Host header is localhost, an IP address or the name given with --host."""
    name = host_header.strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name in ("localhost", host.lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _asked(body):
    """(statements, question) of a request's body, or InputError."""
    story = body.get("story") if isinstance(body, dict) else None
    question = body.get("question") if isinstance(body, dict) else None
    if not isinstance(story, str) or not isinstance(question, str):
        raise InputError('Expected an object with two texts, "story" and "question".')
    for name, text, most in (("story", story, LONGEST_STORY), ("question", question, LONGEST_QUESTION)):
        if len(text) > most:
            raise InputError(f"The {name} has {len(text)} characters; at most {most} can be read.")
    if not question.strip():
        raise InputError("Expected a question, found none.")
    return [line.strip() for line in story.splitlines() if line.strip()], question.strip()


def serve(answerer, examples, top, host, port):
    """Serves the page until Ctrl-C.

    Args:
        answerer, examples, top: see `make_app`.
        host: address to listen at.
        port: port to listen at.

    Raises:
        InputError: nothing can listen there.
    """
    try:
        app = make_app(answerer, examples, top, host)
        limits = {"threads": 2, "max_request_body_size": 10 * LONGEST_BODY}  # beyond LONGEST_BODY the page says why
        server = waitress.create_server(app, host=host, port=port, ident=None, **limits)
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise InputError(f"{host}, port {port}: cannot be served at: {reason}; change --host or --port.") from error
    shown = f"[{host}]" if ":" in host else host
    print(f"Ask at http://{shown}:{port}/ (Ctrl-C ends it).", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1"):
        print("Other machines can reach it, too.", file=sys.stderr)
    server.run()
