"""The chapters in a real JupyterLab: each opens, and its cells run through the server's kernels."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import websocket

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted(path.name for path in (ROOT / "chapters").glob("*.ipynb"))
WHOLE = ("09_claims_ledger.ipynb", "a2_losses.ipynb")  # the others until they train


class Lab:
    """A JupyterLab that serves the chapters, and what a browser would ask of it."""

    def __init__(self, address: str, token: str) -> None:
        self.address, self.token = address, token

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address}{path}", data, method=method)
        request.add_header("Authorization", f"token {self.token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def run(self, name: str, cells: list[str]) -> list[dict[str, Any]]:
        """Open a notebook's session and execute `cells` in it; the replies."""
        kernel = {"name": "python3"}
        opened = json.loads(
            self.ask("/api/sessions", {"path": name, "name": name, "type": "notebook", "kernel": kernel})
        )
        channel = f"ws://{self.address}/api/kernels/{opened['kernel']['id']}/channels?token={self.token}"
        socket_ = websocket.create_connection(channel, timeout=240)
        try:
            return [self._execute(socket_, cell) for cell in cells]
        finally:
            socket_.close()
            self.ask(f"/api/sessions/{opened['id']}", method="DELETE")

    def _execute(self, channel: websocket.WebSocket, code: str) -> dict[str, Any]:
        identity = uuid.uuid4().hex
        header = {
            "msg_id": identity,
            "msg_type": "execute_request",
            "username": "",
            "session": identity,
            "version": "5.3",
        }
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        channel.send(json.dumps(message))
        while True:
            answer = json.loads(channel.recv())
            if answer["msg_type"] == "execute_reply" and answer["parent_header"].get("msg_id") == identity:
                return answer["content"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = uuid.uuid4().hex
    command = [sys.executable, "-m", "jupyterlab", str(ROOT / "chapters"), "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", f"--IdentityProvider.token={token}"]
    environment = os.environ | {
        "MASTLIB_OUTPUTS": str(folder / "outputs"), "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"), "JUPYTER_DATA_DIR": str(folder / "data"),
        "IPYTHONDIR": str(folder / "ipython"),
    }  # fmt: skip
    with (
        open(folder / "log", "wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            served = Lab(f"127.0.0.1:{port}", token)
            deadline = time.monotonic() + 120
            while True:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                try:
                    served.ask("/api/status")
                    break
                except OSError:
                    time.sleep(0.2)
            yield served
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_opens_in_lab_and_its_cells_run(lab: Lab, name: str) -> None:
    assert b"jupyter-config-data" in lab.ask(f"/lab/tree/{name}")
    content = json.loads(lab.ask(f"/api/contents/{name}"))["content"]
    notebook = nbformat.from_dict(content)
    nbformat.validate(notebook)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    if name not in WHOLE:
        stop = next((place for place, cell in enumerate(cells) if place > 1 and "run." in cell), len(cells))
        cells = cells[: max(2, stop)]
    cells[0] = cells[0].replace('"laptop"', '"smoke"')
    for cell, reply in zip(cells, lab.run(name, cells), strict=True):
        assert reply["status"] == "ok", (cell.splitlines()[0], reply.get("evalue"))


@pytest.mark.notebook
def test_a_cell_that_fails_is_noticed(lab: Lab) -> None:
    [reply] = lab.run(CHAPTERS[0], ["1 / 0"])
    assert reply["status"] == "error" and reply["ename"] == "ZeroDivisionError"
