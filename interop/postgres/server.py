"""A PostgreSQL server of its own in a folder, on a port that is free: started, killed, asked."""
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from processes import free_ports  # noqa: E402

USER = "sluice_test"


def programs() -> pathlib.Path:
    """The folder of initdb and pg_ctl, of the newest version that is installed."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not found:
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", "postgresql"], check=True)
        return programs()
    return found[-1].parent


class Server:
    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.port, self.bin = folder, free_ports(1), programs()
        folder.mkdir()
        # The server refuses to be run by root.
        self.drop: list = []
        if os.geteuid() == 0:
            self.drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            for parent in [folder, *folder.parents]:
                if parent == pathlib.Path("/"):
                    break
                parent.chmod(parent.stat().st_mode | 0o011)
            subprocess.run(["chown", "postgres:postgres", folder], check=True)
        password = folder / "password"
        password.write_text("secret")
        password.chmod(0o644)
        self.program("initdb", "--no-sync", "--auth=scram-sha-256", f"--username={USER}", f"--pwfile={password}", "--pgdata", self.data)
        self.certify()
        self.start()

    def certify(self) -> None:
        """An authority, `ca.pem`, and a certificate by it for `localhost`."""
        def openssl(*arguments: object) -> None:
            subprocess.run([*self.drop, "openssl", *map(str, arguments)], check=True, capture_output=True, cwd=self.folder)
        key = ["-newkey", "rsa:2048", "-nodes"]
        openssl("req", "-x509", *key, "-days", "30", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
        openssl("req", *key, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
        (self.folder / "names").write_text("subjectAltName=DNS:localhost\n")
        (self.folder / "names").chmod(0o644)
        openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-extfile", "names", "-out", "server.pem")

    @property
    def data(self) -> pathlib.Path:
        return self.folder / "data"

    def program(self, name: str, *arguments: object) -> None:
        out = subprocess.run([*self.drop, self.bin / name, *map(str, arguments)], capture_output=True, text=True, cwd="/")
        assert out.returncode == 0, out

    def start(self, *settings: str) -> None:
        """Starts it; a server that was killed recovers first."""
        options = ["-c", f"port={self.port}", "-c", "listen_addresses=localhost", "-c", f"unix_socket_directories={self.folder}",
                   "-c", "max_connections=50", "-c", "ssl=on", "-c", f"ssl_cert_file={self.folder}/server.pem",
                   "-c", f"ssl_key_file={self.folder}/server.key", *settings]
        # It must not hold the pipes of whoever waits for pg_ctl.
        log = open(self.folder / "ctl.log", "ab")
        subprocess.run([*self.drop, self.bin / "pg_ctl", "start", "--wait", "--timeout=120", "--pgdata", self.data,
                        "--log", self.folder / "server.log", "--options", " ".join(options)], check=True, stdout=log, stderr=log, cwd="/")

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is a crash: nothing is written out, and the next start recovers."""
        self.program("pg_ctl", "stop", "--mode", mode, "--pgdata", self.data)

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def environment(self) -> dict:
        return {**os.environ, "PGHOST": "localhost", "PGPORT": str(self.port), "PGUSER": USER, "PGPASSWORD": "secret", "PGDATABASE": "postgres",
                "PGOPTIONS": "-c timezone=UTC"}

    def sql(self, text: str) -> list[tuple[str, ...]]:
        """Rows as texts; null is empty."""
        out = subprocess.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-At", "-F", "\t", "-c", text], env=self.environment,
                             capture_output=True, text=True)
        assert out.returncode == 0, f"{text}: {out.stderr}"
        return [tuple(line.split("\t")) for line in out.stdout.splitlines()]

    def session(self) -> "Session":
        return Session(self)

    def settings(self, more: str = "") -> str:
        """What a pipeline needs to get in."""
        return f"url: 'postgres://localhost:{self.port}/postgres', user: {USER}, password: \"${{PG_PASSWORD}}\"{', ' + more if more else ''}"


class Session:
    """A session that stays open, for transactions that take their time."""

    def __init__(self, server: Server) -> None:
        self.psql = subprocess.Popen(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-At"], env=server.environment, text=True,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, text: str) -> None:
        self.psql.stdin.write(f"{text};\n\\echo done\n")
        self.psql.stdin.flush()
        for line in self.psql.stdout:
            if line.strip() == "done":
                return
        raise AssertionError(text)

    def close(self) -> None:
        self.psql.stdin.close()
        assert self.psql.wait(timeout=60) == 0


def until(what: str, holds, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not in {seconds} s: {what}"
        time.sleep(0.05)
