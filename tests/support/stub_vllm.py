"""A package named vllm, imported in a moment by the real launcher, whose server behaves as it is told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SERVER = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

behaviour = {behaviour!r}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, "")

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if behaviour == "dies in the middle":
            os._exit(9)
        good = json.dumps({{"choices": [{{"index": 0, "text": "word"}}]}})
        self.answer(500 if behaviour == "500" else 200, "<html>" if behaviour == "garbage" else good)

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class ServeSubcommand:
    def subparser_init(self, subparsers):
        parser = subparsers.add_parser("serve")
        parser.add_argument("model")
        parser.add_argument("--port", type=int)

    def validate(self, args):
        pass

    def cmd(self, args):
        serve(args.port)


def serve(port):
    for path in (Path({seen!r}), Path({seen!r}).with_stem(f"environment-{{os.getpid()}}")):
        path.write_text(json.dumps(dict(os.environ)))
    # vLLM leaves what it makes there.
    Path(os.environ["VLLM_RPC_BASE_PATH"], "socket").touch()
    if behaviour == "dies at start":
        print("(EngineCore pid=1) ERROR 11-25 03:04:05 [core.py:1] ValueError: no room for the cache", flush=True)
        sys.exit(3)
    if behaviour == "hangs at start":
        time.sleep(600)
    HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
PARSER = """
import argparse

class FlexibleArgumentParser(argparse.ArgumentParser):
    def parse_args(self, args):
        return self.parse_known_args(args)[0]
"""
CLIENT = """
def add_cli_args(parser):
    parser.add_argument("--seen")

def main(args):
    import json, os
    open(args.seen, "w").write(json.dumps(dict(os.environ)))
"""


def make(folder: Path, behaviour: str) -> tuple[str, Path]:
    """Return a Python that has the package, and the file into which its server writes its environment.

    Each server also writes one of its own, `environment-<pid>.json`.
    """
    package, seen = folder / "site" / "vllm", folder / "environment.json"
    first = {"cannot be imported": "import module_that_is_not_there", "imports slowly": "import time; time.sleep(60)"}
    files = {
        "__init__.py": f"{first.get(behaviour, '')}\n__version__ = '0.32.0'\n",
        "platforms.py": "class current_platform:\n    is_cpu = is_cuda = staticmethod(lambda: False)\n",
        "benchmarks/serve.py": CLIENT,
        "logger.py": "",
        "utils/argparse_utils.py": PARSER,
        "entrypoints/cli/serve.py": SERVER.format(behaviour=behaviour, seen=str(seen)),
        "v1/engine/async_llm.py": "",
    }
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    python = folder / "python"
    counted = folder / "starts"
    python.write_text(
        f"#!/bin/sh\necho x >> {counted}\n"
        f'PYTHONPATH={folder / "site"}{os.pathsep}$PYTHONPATH exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return str(python), seen


def starts(python: str) -> int:
    """Return how often the Python was started."""
    counted = Path(python).with_name("starts")
    return len(counted.read_text().split()) if counted.is_file() else 0
