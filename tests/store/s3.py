"""An S3-compatible server: moto's, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request


class S3:
    """Started at once; `url` is a bucket in it, for the environment in `env`."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._server.stdout is not None
        said = b""
        while (found := re.search(rb"Running on (http://127\.0\.0\.1:\d+)", said)) is None:
            line = self._server.stdout.readline()
            assert line, said.decode()
            said += line
        self.endpoint = found[1].decode()
        request = urllib.request.Request(f"{self.endpoint}/sandboxkit-tests", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        self.url = "s3://sandboxkit-tests/some/where"
        self.env = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "canary-of-s3",
            "AWS_REGION": "us-east-1",
        }

    def stop(self) -> None:
        self._server.terminate()
        self._server.communicate(timeout=30)
