"""Apache Iceberg's own REST catalog (Maven Central, `iceberg-open-api`), started by `interop/peers`."""
import contextlib
import os
import pathlib
import socket
import subprocess
import typing

PEERS = str(pathlib.Path(__file__).parent / "peers")


@contextlib.contextmanager
def served(folder: pathlib.Path) -> typing.Iterator[str]:
    """Its address on loopback; it ends with the block."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    folder.mkdir(parents=True)
    subprocess.run([PEERS, "start", "iceberg", str(folder)], check=True, env=os.environ | {"CATALOG_PORT": str(port)})
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([PEERS, "stop", str(folder)], check=True)
