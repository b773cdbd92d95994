"""An object store that speaks S3's protocol (PyPI `moto`), with one bucket, named `bucket`."""
import contextlib
import pathlib
import socket
import subprocess
import sys
import time
import typing
import urllib.error
import urllib.request


@contextlib.contextmanager
def served() -> typing.Iterator[int]:
    """Its port on loopback; it ends with the block."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen([str(pathlib.Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT"))
                break
            except (ConnectionError, urllib.error.URLError):
                assert server.poll() is None, "moto_server ended"
                time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()
