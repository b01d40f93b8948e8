"""An S3 server on loopback (moto's), in a thread of the test process, and the environment that points clients at it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

Request = dict[str, Any]  # as WSGI has it


@contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch, bucket: str, *, fail: Callable[[Request], str | None] = lambda request: None) -> Iterator[Any]:
    """A boto3 client of a fresh server with an empty bucket; the environment is as a user's would be.

    `fail` sees each request first; where it returns a status ("500 Internal Server Error"), that is the answer, and the store hears of nothing.
    """
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # fsspec keeps one for all that come, and with it the server of before
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket=bucket)
        store = server._server.app

        def answer(request: Request, start_response: Callable) -> Any:
            status = fail(request)
            if status is None:
                return store(request, start_response)
            request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
            start_response(status, [("Content-Length", "0")])
            return [b""]

        server._server.app = answer
        yield client
    finally:
        server.stop()
