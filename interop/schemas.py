"""Bodies that other people's writers made, as columns that other people's readers read: Avro and Protobuf by Confluent's
serializers (PyPI `confluent-kafka`) with a schema registry, Avro by `fastavro`, and CSV, through `sluice run` into Parquet,
compared row by row by DuckDB and pyarrow. The Avro schema grows while messages come; a body that is cut and one of an
unknown schema are turned away, and a registry that is busy is asked again.

The registry is a stand-in with Confluent's paths and basic authentication; the serializers register their schemas there.
"""
import base64
import datetime
import decimal
import http.server
import io
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import time
import uuid

import duckdb
import fastavro
import pyarrow.parquet
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

from processes import free_ports

SLUICE = str(pathlib.Path(os.environ["SLUICE"]).resolve())
LOGIN = "Basic " + base64.b64encode(b"sluice:secret").decode()


class Registry(http.server.BaseHTTPRequestHandler):
    """Confluent's paths, as far as serializers and Sluice ask for them."""

    protocol_version = "HTTP/1.1"
    schemas: list[dict] = []
    subjects: dict[str, list[int]] = {}
    asked: list[str] = []
    # So many requests for a schema are answered by 503.
    busy = 0

    def answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def is_known(self) -> bool:
        if self.headers.get("Authorization") == LOGIN:
            return True
        self.answer(401, {"error_code": 401, "message": "Unauthorized"})
        return False

    def do_GET(self) -> None:
        if not self.is_known():
            return
        parts = self.path.split("?")[0].strip("/").split("/")
        Registry.asked.append("/".join(parts))
        if parts[:2] == ["schemas", "ids"] and Registry.busy > 0:
            Registry.busy -= 1
            return self.answer(503, {"error_code": 50003, "message": "Busy"})
        if parts[:2] == ["schemas", "ids"] and 1 <= int(parts[2]) <= len(self.schemas):
            return self.answer(200, self.schemas[int(parts[2]) - 1])
        if parts == ["schemas", "types"]:
            return self.answer(200, ["AVRO", "PROTOBUF"])
        self.answer(404, {"error_code": 40403, "message": "Schema not found"})

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.is_known():
            return
        parts = self.path.split("?")[0].strip("/").split("/")
        schema = {key: content[key] for key in ("schema", "schemaType", "references") if content.get(key)}
        if schema not in self.schemas:
            self.schemas.append(schema)
        number = self.schemas.index(schema) + 1
        versions = self.subjects.setdefault(parts[1], [])
        if number not in versions:
            versions.append(number)
        self.answer(200, {"id": number, "subject": parts[1], "version": versions.index(number) + 1, "schema": schema["schema"]})

    def log_message(self, *_: object) -> None:
        pass


ORDER = {
    "type": "record", "name": "Order", "namespace": "shop", "fields": [
        {"name": "id", "type": "long"},
        {"name": "quantity", "type": "int"},
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "key", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "PAID"]}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "counts", "type": {"type": "map", "values": "long"}},
        {"name": "to", "type": {"type": "record", "name": "Address", "fields": [{"name": "city", "type": ["null", "string"]}]}},
        {"name": "note", "type": ["null", "string"], "default": None},
    ]}
# The quantity got wider, and the coupon is new.
LATER = json.loads(json.dumps(ORDER))
LATER["fields"][1]["type"] = "long"
LATER["fields"].append({"name": "coupon", "type": ["null", "string"], "default": None})


def order(number: int) -> dict:
    row = {
        "id": number, "quantity": number * 3, "amount": decimal.Decimal(number * 101 - 500).scaleb(-2),
        "at": datetime.datetime(2013, 1, 1, 12, 0, 0, number * 1000, tzinfo=datetime.timezone.utc),
        "day": datetime.date(2013, 1, 1) + datetime.timedelta(days=number), "key": str(uuid.UUID(int=number)),
        "state": "NEW" if number % 2 else "PAID", "tags": [f"t{n}" for n in range(number % 3)],
        "counts": {f"c{n}": n for n in range(number % 4)}, "to": {"city": None if number % 5 == 0 else f"city {number}"},
        "note": None if number % 2 else f"note {number}",
    }
    if number >= 20:
        row |= {"quantity": 10_000_000_000 + number, "coupon": f"c{number}" if number % 2 else None}
    return row


def event_file() -> descriptor_pb2.FileDescriptorProto:
    """A file with two messages; bodies hold the second, so its index stands in the prefix."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="shop", syntax="proto3",
                                              dependency=["google/protobuf/timestamp.proto"])
    file.message_type.add(name="Other").field.add(name="x", number=1, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    event = file.message_type.add(name="Event")

    def add(name: str, kind: int, label: int = field.LABEL_OPTIONAL, **more: object) -> None:
        event.field.add(name=name, number=len(event.field) + 1, type=kind, label=label, **more)

    place = event.nested_type.add(name="Place")
    place.field.add(name="city", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry = event.nested_type.add(name="CountsEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=field.TYPE_INT64, label=field.LABEL_OPTIONAL)
    kind = event.enum_type.add(name="Kind")
    kind.value.add(name="UNKNOWN", number=0)
    kind.value.add(name="CLICK", number=1)
    event.oneof_decl.add(name="who")
    add("id", field.TYPE_INT64)
    add("size", field.TYPE_UINT64)
    add("kind", field.TYPE_ENUM, type_name=".shop.Event.Kind")
    add("at", field.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp")
    add("tags", field.TYPE_STRING, field.LABEL_REPEATED)
    add("counts", field.TYPE_MESSAGE, field.LABEL_REPEATED, type_name=".shop.Event.CountsEntry")
    add("place", field.TYPE_MESSAGE, type_name=".shop.Event.Place")
    add("name", field.TYPE_STRING, oneof_index=0)
    add("number", field.TYPE_INT32, oneof_index=0)
    return file


def run(folder: pathlib.Path, *arguments: str, stdin: bytes | None = None) -> str:
    environment = os.environ | {"REGISTRY_PASSWORD": "secret"}
    done = subprocess.run([SLUICE, *arguments], cwd=folder, env=environment, input=stdin, capture_output=True)
    assert done.returncode == 0, (arguments, done.stdout.decode(), done.stderr.decode())
    return done.stdout.decode()


def pipeline(folder: pathlib.Path, namesrv: str, name: str, decode: str) -> list[dict]:
    """Runs a topic's bodies into Parquet, and gives the rows that DuckDB reads."""
    text = f"""
name: {name}
source: {{topic: {{name: {name}, cluster: "{namesrv}", until: caught_up}}}}
decode: {decode}
sink: {{parquet: {{path: lake/{name}}}}}
errors: {{then: skip}}
"""
    (folder / f"{name}.yaml").write_text(text)
    run(folder, "lint", f"{name}.yaml")
    run(folder, "check", f"{name}.yaml")
    preview = run(folder, "preview", f"{name}.yaml", "--rows", "3")
    assert "schema of the output" in preview, preview
    Registry.busy = 2
    print(run(folder, "run", f"{name}.yaml", "--no-broker").splitlines()[0], flush=True)
    Registry.busy = 0
    rows = duckdb.sql(f"SET TimeZone = 'UTC'; SELECT * FROM read_parquet('{folder}/lake/{name}/*.parquet', union_by_name = true)")
    return [dict(zip(rows.columns, row)) for row in rows.fetchall()]


def main() -> None:
    began = time.monotonic()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    client = SchemaRegistryClient({"url": url, "basic.auth.user.info": "sluice:secret"})
    registry = f'registry: {{url: "{url}", user: sluice, password: "${{REGISTRY_PASSWORD}}"}}'
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        port, namesrv = free_ports(1), f"127.0.0.1:{free_ports(1)}"
        broker = subprocess.Popen([SLUICE, "broker", "--listen", f"127.0.0.1:{port}", "--namesrv-listen", namesrv, "--data-dir", "data"],
                                  cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            broker.stdout.readline()

            def send(topic: str, body: bytes) -> None:
                run(folder, "topic", "send", topic, "--namesrv", namesrv, "--whole", stdin=body)

            avro_by_registry(folder, namesrv, client, registry, send)
            avro_by_file(folder, namesrv, send)
            protobuf(folder, namesrv, client, send)
            csv(folder, namesrv, send)
        finally:
            broker.terminate()
            broker.wait()
    server.shutdown()
    print(f"schemas: Avro, Protobuf and CSV of other writers are the same rows for DuckDB and pyarrow ({time.monotonic() - began:.1f} s)")


def avro_by_registry(folder, namesrv, client, registry, send) -> None:
    context = SerializationContext("orders", MessageField.VALUE)
    old, new = (AvroSerializer(client, json.dumps(schema)) for schema in (ORDER, LATER))
    decode = f"{{format: {{avro: {{{registry}}}}}, schema: {{freeze_after_rows: 5}}, on_new_field: add}}"
    expected = []

    def write(*numbers: int) -> None:
        for number in numbers:
            serializer = new if number >= 20 else old
            send("orders", serializer(order(number), context))
            expected.append(order(number))

    write(*range(12))
    compare("orders", pipeline(folder, namesrv, "orders", decode), expected)
    # The schema grows; old and new rows after that lie in one file.
    write(20, 12, 21, 13, 22)
    send("orders", old(order(1), context)[:-9])
    send("orders", b"\0\0\0\x7f\xff" + b"x" * 20)
    send("orders", b"no Avro")
    compare("orders", pipeline(folder, namesrv, "orders", decode), expected)
    asked = [path for path in Registry.asked if path.startswith("schemas/ids/")]
    # Of the three ids each preview and each run asks once, and again after each 503.
    assert len(asked) <= 2 * 2 * 3 + 2 * 2, asked
    tables = [pyarrow.parquet.read_table(file) for file in sorted((folder / "lake/orders").glob("*.parquet"))]
    shapes = [(table.num_rows, str(table.schema.field("quantity").type), "coupon" in table.schema.names) for table in tables]
    assert shapes == [(12, "int32", False), (5, "int64", True)], shapes
    amounts = [value for table in tables for value in table["amount"].to_pylist()]
    assert sorted(amounts) == sorted(row["amount"] for row in expected)


def avro_by_file(folder, namesrv, send) -> None:
    schema = fastavro.parse_schema(json.loads(json.dumps(LATER)))
    (folder / "order.avsc").write_text(json.dumps(LATER))
    expected = [order(number) for number in range(20, 26)]
    for row in expected:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema, row)
        send("plain", out.getvalue())
    rows = pipeline(folder, namesrv, "plain", '{format: {avro: {schema: "${file:order.avsc}"}}}')
    compare("plain", rows, expected)


def protobuf(folder, namesrv, client, send) -> None:
    pool = descriptor_pool.DescriptorPool()
    times = descriptor_pb2.FileDescriptorProto.FromString(timestamp_pb2.DESCRIPTOR.serialized_pb)
    for file in (times, event_file()):
        pool.Add(file)
    (folder / "event.desc").write_bytes(descriptor_pb2.FileDescriptorSet(file=[times, event_file()]).SerializeToString())
    event_class = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Event"))
    serializer = ProtobufSerializer(event_class, client, {"use.deprecated.format": False})
    context = SerializationContext("events", MessageField.VALUE)
    expected = []
    for number in range(8):
        event = event_class(id=number, size=2**64 - 1 - number, kind=number % 2, tags=[f"t{n}" for n in range(number % 3)])
        event.at.FromNanoseconds(1_357_000_000_000_000_000 + number * 1000)
        event.counts["a"] = number
        if number % 2:
            event.place.city = f"city {number}"
            event.name = f"name {number}"
        else:
            event.number = number
        send("events", serializer(event, context))
        at = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(microseconds=1_357_000_000_000_000 + number)
        expected.append({
            "id": number, "size": 2**64 - 1 - number, "kind": ["UNKNOWN", "CLICK"][number % 2], "at": at, "tags": list(event.tags),
            "counts": {"a": number}, "place": {"city": f"city {number}"} if number % 2 else None,
            "name": f"name {number}" if number % 2 else None, "number": None if number % 2 else number,
        })
    send("events", b"\0\0\0\0\1\0\x08\x01")
    rows = pipeline(folder, namesrv, "events", "{format: {protobuf: {descriptors: event.desc, message: shop.Event, prefix: confluent}}}")
    compare("events", rows, expected)


def csv(folder, namesrv, send) -> None:
    for body in ('1;"a; b";2.5', '2;;NA', '3;"say ""hi""";4', "4;one field less"):
        send("lines", body.encode())
    rows = pipeline(folder, namesrv, "lines", '{format: {csv: {header: [id, text, value], delimiter: ";", nulls: ["", NA]}}}')
    compare("lines", rows, [{"id": 1, "text": "a; b", "value": 2.5}, {"id": 2, "text": None, "value": None}, {"id": 3, "text": 'say "hi"', "value": 4.0}])


def compare(name: str, rows: list[dict], expected: list[dict]) -> None:
    """The same rows in any order, where a column that a row does not have is null."""
    columns = list(dict.fromkeys(column for row in expected for column in row))
    assert rows and set(rows[0]) == set(columns), (name, rows[:1])

    def plain(value: object) -> object:
        if isinstance(value, uuid.UUID):
            return str(value)
        if isinstance(value, datetime.datetime):
            return value.astimezone(datetime.timezone.utc)
        return value

    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(rows) == len(expected), (name, len(rows), len(expected))
    for row in expected:
        for column in columns:
            found, wanted = plain(by_id[row["id"]][column]), row.get(column)
            assert found == wanted, (name, row["id"], column, found, wanted)


if __name__ == "__main__":
    main()
