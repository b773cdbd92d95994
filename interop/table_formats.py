"""A table that Sluice writes, as the libraries of other people see and change it: of Delta Lake by PyPI `deltalake`, of
Iceberg by PyPI `pyiceberg`, in a folder, in an S3-compatible store, or of a REST catalog.
"""
import datetime
import os
import pathlib
import re
import urllib.parse

import deltalake
import duckdb
import pyarrow
import pyarrow.fs
import pyiceberg.catalog
import pyiceberg.catalog.noop
import pyiceberg.exceptions
import pyiceberg.io
import pyiceberg.table
import pyiceberg.table.update


class Delta:
    """A table of Delta Lake at `where`: a folder, or an address of a store that `options` are for."""
    kind, can_compact = "delta", True

    def __init__(self, where: str, options: dict | None = None) -> None:
        self.where, self.options = where, options or {}

    def sink(self, path: str, more: str = "") -> str:
        return f'delta: {{path: "{path}"{more}}}'

    def load(self) -> deltalake.DeltaTable:
        return deltalake.DeltaTable(self.where, storage_options=self.options)

    def is_there(self) -> bool:
        return deltalake.DeltaTable.is_deltatable(self.where, self.options)

    def rows(self) -> pyarrow.Table:
        return self.load().to_pyarrow_table()

    def dataset(self):
        """What an engine pushes filters into."""
        return self.load().to_pyarrow_dataset()

    def commits(self) -> int:
        return self.load().version()

    def position(self, chain: str) -> int | None:
        return self.load().transaction_version(f"sluice/{chain}")

    def append(self, rows: pyarrow.Table) -> None:
        deltalake.write_deltalake(self.where, rows, mode="append", schema_mode="merge", storage_options=self.options)

    def filtered(self, filter: str) -> list[int]:
        """The ids of rows, of files that their statistics do not rule out. By the engine of the package: the dataset that it gives
        others holds that a column is not null where a file has no statistics of it."""
        filter = filter.replace("at >= '2013", "at >= TIMESTAMP '2013")
        found = deltalake.QueryBuilder().register("t", self.load()).execute(f"SELECT id FROM t WHERE {filter}")
        return sorted(pyarrow.table(found.read_all())["id"].to_pylist())

    def tidy(self) -> None:
        """Merges files, and forgets what is older."""
        self.load().optimize.compact()
        self.load().vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)

    def drop(self) -> None:
        """Takes it from its catalog: it has none."""

    def shown(self) -> str:
        return f"{self.kind} at {self.where}"


class OwnCatalog(pyiceberg.catalog.noop.NoopCatalog):
    """The catalog that a table's own folder is, as Hadoop's: pyiceberg reads it and has none to commit to it."""

    def __init__(self, where: str, options: dict) -> None:
        super().__init__("own", **options)
        self.where, self.options = where.rstrip("/"), options

    def newest(self) -> int:
        """The greatest number; 0 if there is no table."""
        if self.where.startswith("s3://"):
            address = urllib.parse.urlparse(self.options["s3.endpoint"])
            store = pyarrow.fs.S3FileSystem(access_key=self.options["s3.access-key-id"], secret_key=self.options["s3.secret-access-key"],
                                            endpoint_override=address.netloc, scheme=address.scheme, region="us-east-1")
            found = store.get_file_info(pyarrow.fs.FileSelector(f"{self.where.removeprefix('s3://')}/metadata", allow_not_found=True))
            names = [info.base_name for info in found]
        else:
            folder = pathlib.Path(self.where) / "metadata"
            names = os.listdir(folder) if folder.is_dir() else []
        return max((int(m[1]) for name in names if (m := re.fullmatch(r"v(\d+)\.metadata\.json", name))), default=0)

    def address(self, number: int) -> str:
        return f"{self.where}/metadata/v{number}.metadata.json"

    def load_table(self, identifier=("own", "table")) -> pyiceberg.table.Table:
        address = self.address(self.newest())
        static = pyiceberg.table.StaticTable.from_metadata(address, self.options)
        return pyiceberg.table.Table(identifier, static.metadata, address, static.io, self)

    def commit_table(self, table, requirements, updates) -> pyiceberg.table.CommitTableResponse:
        number = self.newest()
        current = self.load_table()
        for requirement in requirements:
            requirement.validate(current.metadata)
        metadata = pyiceberg.table.update.update_table_metadata(current.metadata, updates, metadata_location=current.metadata_location)
        address = self.address(number + 1)
        temp = f"{address}.{os.getpid()}"
        pathlib.Path(temp).write_text(metadata.model_dump_json(exclude_none=True))
        try:
            os.link(temp, address)
        except FileExistsError as e:
            raise pyiceberg.exceptions.CommitFailedException(address) from e
        finally:
            os.unlink(temp)
        (pathlib.Path(self.where) / "metadata" / "version-hint.text").write_text(str(number + 1))
        return pyiceberg.table.CommitTableResponse(metadata=metadata, metadata_location=address)


class Iceberg:
    """A table of Iceberg at `where`, or of the REST catalog at `uri` as `lake.NAME`."""
    kind, can_compact = "iceberg", False

    def __init__(self, where: str, options: dict | None = None, uri: str | None = None, name: str = "late") -> None:
        self.where, self.uri, self.name = where, uri, name
        self.options = {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO"} | (options or {})

    def sink(self, path: str, more: str = "") -> str:
        rest = f', catalog: {{rest: {{uri: "{self.uri}", table: lake.{self.name}}}}}' if self.uri else ""
        return f'iceberg: {{path: "{path}"{more}{rest}}}'

    def load(self) -> pyiceberg.table.Table:
        if self.uri:
            return pyiceberg.catalog.load_catalog("rest", type="rest", uri=self.uri, **self.options).load_table(f"lake.{self.name}")
        return OwnCatalog(self.where, self.options).load_table()

    def is_there(self) -> bool:
        if self.uri:
            try:
                return self.load().current_snapshot() is not None
            except pyiceberg.exceptions.NoSuchTableError:
                return False
        return OwnCatalog(self.where, self.options).newest() > 1

    def rows(self) -> pyarrow.Table:
        """As readers find it who are told a folder and no catalog."""
        table = self.load() if self.uri else pyiceberg.table.StaticTable.from_metadata(self.where, self.options)
        return table.scan().to_arrow()

    def dataset(self) -> pyarrow.Table:
        return self.rows()

    def commits(self) -> int:
        return len(self.load().snapshots())

    def position(self, chain: str) -> int | None:
        """As the properties have it; the newest snapshot of the chain that is there must say the same."""
        table = self.load()
        at = table.properties.get(f"sluice.{chain}")
        said = [s.summary.additional_properties.get(f"sluice.{chain}") for s in sorted(table.snapshots(), key=lambda s: s.sequence_number)]
        said = [text for text in said if text is not None]
        assert not said or said[-1] == at, (said, at)
        return at and int(at)

    def append(self, rows: pyarrow.Table) -> None:
        for _ in range(20):
            try:
                self.load().append(rows)
                return
            except pyiceberg.exceptions.CommitFailedException:
                pass
        raise AssertionError("an append never lands")

    def filtered(self, filter: str) -> list[int]:
        """The ids of rows, of files that their statistics do not rule out."""
        return sorted(self.load().scan(row_filter=filter, selected_fields=("id",)).to_arrow()["id"].to_pylist())

    def drop(self) -> None:
        """Takes it from its catalog, if that is not its own folder."""
        if self.uri and self.is_there():
            self.load().catalog.drop_table(f"lake.{self.name}")

    def shown(self) -> str:
        return f"{self.kind} {self.name} of a REST catalog" if self.uri else f"{self.kind} at {self.where}"

    def tidy(self) -> None:
        """Writes all rows anew into other files, and forgets the snapshots before."""
        table = self.load()
        table.overwrite(table.scan().to_arrow())
        later = datetime.datetime.now() + datetime.timedelta(days=1)
        self.load().maintenance.expire_snapshots().older_than(later).commit()
        assert len(self.load().snapshots()) == 1
