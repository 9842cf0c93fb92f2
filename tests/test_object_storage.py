"""A run's folder in a bucket of Google's object storage, which stands on this machine: whatever reaches it meets one store.

tensorstore speaks HTTP to it, by the client that it has for the real one; all else goes through fsspec. As in a real bucket
there are no folders, a name is written as a whole, and nothing is appended or renamed.
"""

import http.server
import importlib
import io
import itertools
import json
import re
import sys
import threading
import urllib.parse

import chex
import fsspec
import jax
import numpy as np
from orbax.checkpoint._src.path import gcs_utils
import pytest

from configs import vae
from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.api import runs
from imagegen_jax.generation import output
from imagegen_jax.training import checkpoint
from imagegen_jax.training import logging
from imagegen_jax.training import run


class Bucket:
    """{name: (contents, generation)}, by names such as 'bucket/run/config.json'."""

    def __init__(self):
        self.objects = {}
        self._generations = itertools.count(1)

    def put(self, name, contents):
        self.objects[name] = contents, next(self._generations)

    def generation(self, name):
        return self.objects[name][1] if name in self.objects else 0


class Request(http.server.BaseHTTPRequestHandler):
    """The part of Google's JSON API that tensorstore uses: https://cloud.google.com/storage/docs/json_api/v1/objects."""

    protocol_version = "HTTP/1.1"
    bucket = None

    def log_message(self, *_):
        pass

    def _answer(self, code, body=b"", **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _asked(self):
        """(name of the object, or of the bucket where the request is for its list; the query)."""
        url = urllib.parse.urlsplit(self.path)
        bucket, name = re.fullmatch(r"(?:/upload)?/storage/v1/b/([^/]+)/o/?([^/]*)", url.path).groups()
        query = dict(urllib.parse.parse_qsl(url.query))
        return "/".join(filter(None, (bucket, urllib.parse.unquote(name or query.get("name", ""))))), query

    def do_GET(self):
        name, query = self._asked()
        if "/" not in name:
            inside = sorted(n.removeprefix(f"{name}/") for n in self.bucket.objects if n.startswith(f"{name}/"))
            first, end = query.get("startOffset", ""), query.get("endOffset")
            found = [{"name": n, "size": "0"} for n in inside if first <= n and (end is None or n < end)]
            return self._answer(200, json.dumps({"items": found}).encode())
        if name not in self.bucket.objects:
            return self._answer(404)
        contents, generation = self.bucket.objects[name]
        if query.get("ifGenerationNotMatch") == str(generation):
            return self._answer(304)
        if not (wanted := self.headers.get("Range")):
            return self._answer(200, contents, x_goog_generation=str(generation))
        first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted).groups()
        begin = int(first) if first else len(contents) - int(last)
        end = min(int(last) + 1, len(contents)) if first and last else len(contents)
        content_range = f"bytes {begin}-{end - 1}/{len(contents)}"
        return self._answer(206, contents[begin:end], x_goog_generation=str(generation), Content_Range=content_range)

    def do_POST(self):
        name, query = self._asked()
        contents = self.rfile.read(int(self.headers["Content-Length"]))
        if query.get("ifGenerationMatch", (now := str(self.bucket.generation(name)))) != now:
            return self._answer(412)
        self.bucket.put(name, contents)
        return self._answer(200, json.dumps({"name": name, "generation": str(self.bucket.generation(name))}).encode())

    def do_DELETE(self):
        self.bucket.objects.pop(self._asked()[0], None)
        self._answer(204)


class FileSystem(fsspec.AbstractFileSystem):
    """What gcsfs is to fsspec."""

    protocol = ("gcs", "gs")
    bucket = None

    def ls(self, path, detail=True, **_):
        path, found = self._strip_protocol(path), {}
        for name, (contents, _) in self.bucket.objects.items():
            if name == path or name.startswith(f"{path}/"):
                child = "/".join(name.split("/")[: path.count("/") + 1 + (name != path)])
                kind, size = ("file", len(contents)) if child == name else ("directory", 0)
                found[child] = {"name": child, "type": kind, "size": size}
        if not found:
            raise FileNotFoundError(path)
        return list(found.values()) if detail else sorted(found)

    def info(self, path, **_):
        path = self._strip_protocol(path)
        found = self.ls(path)
        return found[0] if found[0]["name"] == path else {"name": path, "type": "directory", "size": 0}

    def exists(self, path, **_):
        try:
            return bool(self.info(path))
        except FileNotFoundError:
            return False

    def _open(self, path, mode="rb", **_):
        assert mode in ("rb", "wb"), "nothing can be appended"
        if mode == "rb":
            if path not in self.bucket.objects:
                raise FileNotFoundError(path)
            return io.BytesIO(self.bucket.objects[path][0])
        bucket = self.bucket

        class Written(io.BytesIO):
            def close(self):
                if not self.closed:
                    bucket.put(path, self.getvalue())
                super().close()

        return Written()

    def _rm(self, path):
        del self.bucket.objects[self._strip_protocol(path)]

    def rm(self, path, recursive=False, **_):
        path = self._strip_protocol(path)
        names = [n for n in self.bucket.objects if n == path or (recursive and n.startswith(f"{path}/"))]
        if not names:
            raise FileNotFoundError(path)
        for name in names:
            del self.bucket.objects[name]

    def cp_file(self, source, target, **_):
        self.bucket.put(self._strip_protocol(target), self.bucket.objects[self._strip_protocol(source)][0])


@pytest.fixture(scope="module")
def bucket():
    patch = pytest.MonkeyPatch()
    made = Bucket()
    server = http.server.ThreadingHTTPServer(("localhost", 0), type("Handler", (Request,), {"bucket": made}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://localhost:{server.server_port}")
    patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "anyone")
    patch.setenv("EPATH_USE_TF", "false")
    filesystem = type("Gcs", (FileSystem,), {"bucket": made})
    for name in FileSystem.protocol:
        patch.setitem(importlib.import_module("fsspec.registry")._registry, name, filesystem)
    patch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)  # asks Google's own client
    yield made
    server.shutdown()
    patch.undo()


def train(workdir, duration):
    """Trains a small VAE."""
    config = vae.get_config("smoke")
    config.update_from_flattened_dict({
        "duration": str(duration), "batch_size": 8, "network.name": "dense", "network.widths": (16,), "log.every": "1",
        "checkpoint.every": "3", "sample.num": 8, "sample.batch_size": 8, "eval.num": 16, "eval.batch_size": 16,
    })  # fmt: skip
    runs.train(config, str(workdir))


def final(workdir):
    """(state, rows of metrics without their times, grid of the last step) of a run."""
    found = run.restore(workdir, None, lambda shapes: {})
    times = ("seconds", "images_per_second", "data_wait_fraction", "hook_seconds")
    rows = [{name: value for name, value in row.items() if name not in times} for row in logging.rows(workdir)]
    grid = files.to_path(workdir) / "samples" / f"{found.step}.png"
    return jax.device_get(found.state), [row for row in rows if "compile_seconds" not in row], grid.read_bytes()


@pytest.mark.recipes
def test_a_run_in_a_bucket_is_the_run_in_a_folder(tmp_path, bucket, command, monkeypatch):
    """That of the bucket is killed while it writes the checkpoint of step 6, and started again."""
    monkeypatch.chdir(tmp_path)
    train(tmp_path / "run", 9)
    train("gs://bucket/run", 6)
    del bucket.objects["bucket/run/checkpoints/6/commit_success.txt"]
    train("gs://bucket/run", 9)
    assert checkpoint.available_steps("gs://bucket/run/checkpoints") == [6, 9]
    ours, theirs = final("gs://bucket/run"), final(tmp_path / "run")
    chex.assert_trees_all_equal(ours[0], theirs[0])
    # What is measured at the last step of a shorter training is measured there alone.
    assert [row for row in ours[1] if row["step"] != 6] == [row for row in theirs[1] if row["step"] != 6] and ours[2] == theirs[
        2
    ]

    command("sample")("--workdir=gs://bucket/run", "--num=8", "--out=drawn.npz")
    command("evaluate")("--workdir=gs://bucket/run", "--num=8", "--features=pixels", "--metrics=fid")
    command("report")("--workdir=gs://bucket/run")
    assert b"samples" in bucket.objects["bucket/run/report.html"][0]
    # Nothing else is on this machine, and in the bucket nothing is beside the run.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn.npz", "run"]
    parts = {re.match(r"bucket/run/[a-z]+", name)[0].split("/")[2] for name in bucket.objects}
    assert parts == {"checkpoints", "config", "eval", "events", "metrics", "panels", "report", "samples"}


def test_a_result_in_a_bucket_is_a_single_file(bucket):
    with pytest.raises(errors.UserError, match="--out=gs://bucket/drawn/: a folder of images can only be on this machine"):
        output.check("gs://bucket/drawn/")
    output.check("gs://bucket/drawn.npz")
    output.save("gs://bucket/drawn.npz", [np.full((2, 4, 4, 1), 7, np.uint8)])
    assert np.all(files.read_npz("gs://bucket/drawn.npz")["images"] == 7)


def test_what_is_moved_in_a_bucket_is_elsewhere(bucket):
    for name in ("6/state/d/1", "6/commit_success.txt", "60/commit_success.txt"):
        bucket.put(f"bucket/moved/{name}", name.encode())
    files.move(files.to_path("gs://bucket/moved/6"), files.to_path("gs://bucket/moved/aside/6"))
    found = {
        name.removeprefix("bucket/moved/"): contents for name, (contents, _) in bucket.objects.items() if "/moved/" in name
    }
    assert found == {
        "aside/6/state/d/1": b"6/state/d/1",
        "aside/6/commit_success.txt": b"6/commit_success.txt",
        "60/commit_success.txt": b"60/commit_success.txt",
    }


@pytest.mark.parametrize("text", ["s3://bucket/run", "file:///run"])
def test_a_storage_that_checkpoints_cannot_be_written_to_is_refused(text):
    with pytest.raises(errors.UserError, match=f"{text}: give a folder, or one in a bucket as gs://BUCKET/FOLDER"):
        files.to_path(text)


def test_a_bucket_that_cannot_be_reached_or_written_to_is_a_line(bucket, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Anonymous caller does not have storage.objects.get access\nand more")

    with monkeypatch.context() as patch:
        patch.setattr(FileSystem, "_open", refuse)
        said = "cannot write gs://bucket/a.txt: Anonymous caller .* access$"
        with pytest.raises(errors.UserError, match=said), files.atomic_write("gs://bucket/a.txt") as temporary:
            temporary.write_text("text")
        patch.setattr(FileSystem, "info", refuse)
        with pytest.raises(errors.UserError, match="cannot reach gs://other/run: Anonymous caller .* access$"):
            files.to_path("gs://other/run")
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "gs")
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as where it is not installed
    with pytest.raises(errors.UserError, match="gs://third/run: reaching gs:// takes gcsfs, which is not installed"):
        files.to_path("gs://third/run")
