"""A small HTTP server on this machine that speaks the part of four hubs' interfaces which downloading a model needs.

Written from the hubs' documented interfaces and from what their clients send: Hugging Face (list of files, HEAD and GET
with ETag and Range), PaddleNLP's object store, AI Studio (contents and media), ModelScope (list of files, GET with
Range). Faults are settings: a connection that is cut, a refusal, bytes that are wrong.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Dict, Iterator, List, Optional, Tuple
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubState:
    """What the server has, what it does wrong, and what it was asked."""

    models: Dict[str, Dict[str, bytes]] = field(default_factory=dict)
    """owner/name -> file name -> content."""
    cut_after: Dict[str, List[int]] = field(default_factory=dict)
    """File name -> bytes after which each of the next answers breaks off; a 0 at the end holds for ever."""
    refused: Dict[str, Tuple[int, str]] = field(default_factory=dict)
    """owner/name -> (status, X-Error-Code) of every answer about it."""
    spoilt: List[str] = field(default_factory=list)
    """Files whose bytes arrive changed."""
    knows_ranges: bool = True
    requests: List[Tuple[str, str, Optional[str]]] = field(default_factory=list)
    """(method, path, Range) in order."""
    sent: Dict[str, int] = field(default_factory=dict)
    """File name -> bytes of content that were sent."""

    def files_asked(self, method: str = "GET") -> List[str]:
        """Names of the files whose content was asked for."""
        return [path.rsplit("/", 1)[-1] for kind, path, _ in self.requests if kind == method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; together they would wait 40 ms
    state: HubState

    def log_message(self, *given: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        address = urlparse(self.path)
        path, query = unquote(address.path), parse_qs(address.query)
        file = query.get("FilePath", [""])[0]
        self.state.requests.append((self.command, f"{path}/{file}" if file else path, self.headers.get("Range")))
        for pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match:
                refusal = self.state.refused.get(match.group("model"))
                if refusal:
                    return self._send(refusal[0], b"{}", {"X-Error-Code": refusal[1]})
                if match.group("model") not in self.state.models:
                    return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                return answer(self, match, query, with_body)
        return self._send(404, b"{}", {})

    # ---- the four interfaces ---------------------------------------------------------------------------------

    def hugging_face_info(self, match: re.Match, query: dict, with_body: bool) -> None:
        files = [{"rfilename": name} for name in self.state.models[match.group("model")]]
        self._json({"id": match.group("model"), "sha": COMMIT, "siblings": files})

    def hugging_face_file(self, match: re.Match, query: dict, with_body: bool) -> None:
        content = self.state.models[match.group("model")].get(match.group("file"))
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        return self._file(match.group("file"), content, headers, with_body)

    def object_store(self, match: re.Match, query: dict, with_body: bool) -> None:
        content = self.state.models[match.group("model")].get(match.group("file"))
        if content is None:
            return self._send(404, b"", {})
        return self._file(match.group("file"), content, {"ETag": '"1"'}, with_body)

    def aistudio_contents(self, match: re.Match, query: dict, with_body: bool) -> None:
        content = self.state.models[match.group("model")].get(match.group("file"))
        if content is None:
            return self._send(404, b"", {})
        sha = hashlib.sha1(content).hexdigest()
        return self._json({"last_commit_sha": COMMIT, "sha": sha, "git_url": "", "size": len(content)})

    def modelscope_list(self, match: re.Match, query: dict, with_body: bool) -> None:
        files = [
            {"Path": name, "Name": name, "Type": "blob", "Size": len(content), "Revision": COMMIT,
             "Sha256": hashlib.sha256(content).hexdigest()}
            for name, content in self.state.models[match.group("model")].items()
        ]  # fmt: skip
        self._json({"Code": 200, "Success": True, "Data": {"Files": files, "TotalCount": len(files)}})

    def modelscope_file(self, match: re.Match, query: dict, with_body: bool) -> None:
        name = match.groupdict().get("file") or query["FilePath"][0]
        content = self.state.models[match.group("model")].get(name)
        if content is None:
            return self._send(404, b"{}", {})
        return self._file(name, content, {}, with_body)

    def modelscope_info(self, match: re.Match, query: dict, with_body: bool) -> None:
        branches = {"Branches": [{"Revision": "master"}], "Tags": []}
        self._json({"Code": 200, "Success": True, "Data": {"Id": 1, "Revision": "master", "RevisionMap": branches}})

    # ---- answers ---------------------------------------------------------------------------------------------

    def _json(self, content: dict) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, content: bytes, headers: Dict[str, str], with_body: bool) -> None:
        if name in self.state.spoilt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        status, whole, range_ = 200, len(content), self.headers.get("Range")
        if range_ and self.state.knows_ranges:
            first, _, last = range_[len("bytes=") :].partition("-")
            if int(first) >= whole:
                return self._send(416, b"", {"Content-Range": f"bytes */{whole}"})
            content = content[int(first) : int(last) + 1 if last else None]
            status = 206
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(content) - 1}/{whole}"
        cuts = self.state.cut_after.get(name) if with_body else None
        part = content[: cuts.pop(0) if len(cuts) > 1 or cuts[0] else 0] if cuts else content
        self.state.sent[name] = self.state.sent.get(name, 0) + (len(part) if with_body else 0)
        headers = {"Content-Length": str(len(content)), "Accept-Ranges": "bytes", **headers}
        return self._send(status, part if with_body else b"", headers, cut=len(part) < len(content))

    def _send(self, status: int, content: bytes, headers: Dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        if cut:
            self.wfile.flush()
            self.close_connection = True


_MODEL = r"(?P<model>[\w.-]+/[\w.-]+)"
_ROUTES = (
    (rf"/models/community/{_MODEL}/(?P<file>.+)", _Handler.object_store),
    (rf"/api/v1/repos/{_MODEL}/contents/(?P<file>.+)", _Handler.aistudio_contents),
    (rf"/api/v1/repos/{_MODEL}/media/(?P<file>.+)", _Handler.object_store),
    (rf"/api/v1/models/{_MODEL}/repo/files", _Handler.modelscope_list),
    (rf"/api/v1/models/{_MODEL}/repo", _Handler.modelscope_file),
    (rf"/api/v1/models/{_MODEL}(/revisions)?", _Handler.modelscope_info),
    (rf"/models/{_MODEL}/resolve/[^/]+/(?P<file>.+)", _Handler.modelscope_file),
    (rf"/api/models/{_MODEL}(/revision/[^/]+)?", _Handler.hugging_face_info),
    (rf"/{_MODEL}/resolve/[^/]+/(?P<file>.+)", _Handler.hugging_face_file),
)


@contextmanager
def serving(state: HubState) -> Iterator[str]:
    """Serve on a free port of this machine; gives the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
