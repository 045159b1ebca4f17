"""Asks over Flight SQL with ADBC's driver and with flightsql-dbapi, which know nothing of Lariat. Prints one JSON object.

ask_flight_sql.py <host> <port> <request id>
"""

import json
import sys

import adbc_driver_flightsql.dbapi
import adbc_driver_manager
from flightsql import FlightSQLClient

host, port, request_id = sys.argv[1:]
told = {}
HEADER = "adbc.flight.sql.rpc.call_header."


def failure(work):
    try:
        work()
    except Exception as error:
        return {"type": type(error).__name__, "message": str(error)}
    return None


uri = f"grpc://{host}:{port}"
with adbc_driver_flightsql.dbapi.connect(uri, autocommit=True) as connection:
    with connection.cursor() as cursor:
        cursor.execute("SELECT method, duration_ns FROM routing_decisions WHERE request_id = $1", [request_id])
        table = cursor.fetch_arrow_table()
        told["adbc"] = {"rows": table.to_pylist(), "types": [str(field.type) for field in table.schema]}
        cursor.execute("SELECT * FROM spans ORDER BY time LIMIT 5")
        told["wide"] = len(cursor.fetch_arrow_table().schema)
        cursor.execute("SELECT method FROM routing_decisions WHERE false")
        told["none"] = cursor.fetchall()
        told["wrong_table"] = failure(lambda: cursor.execute("SELECT * FROM routing_decision"))
        told["write"] = failure(lambda: cursor.execute("DROP TABLE spans"))
        cursor.execute("SELECT 1")
        told["after"] = cursor.fetchone()[0]
    objects = connection.adbc_get_objects(depth="all").read_all().to_pylist()
    tables = objects[0]["catalog_db_schemas"][0]["db_schema_tables"]
    told["objects"] = {table["table_name"]: table["table_type"] for table in tables}
    told["columns"] = sum(len(table["table_columns"]) for table in tables)
    told["schema_of"] = connection.adbc_get_table_schema("routing_decisions").names[:2]
    told["table_types"] = connection.adbc_get_table_types()
    told["info"] = connection.adbc_get_info()["vendor_name"]

strict = {HEADER + "x-lariat-min-coverage": "1.5"}
with adbc_driver_flightsql.dbapi.connect(uri, db_kwargs=strict, autocommit=True) as connection:
    with connection.cursor() as cursor:
        told["strict"] = failure(lambda: cursor.execute("SELECT 1"))

# The way of Grafana's old plugin and of other clients of InfluxDB: a token, and the name of a database in a header.
client = FlightSQLClient(host=host, port=int(port), insecure=True, token="any", metadata={"bucket-name": "lariat"})
info = client.execute("SELECT count(*) AS n FROM spans")
reader = client.do_get(info.endpoints[0].ticket)
rows, metadata = [], None
while True:
    try:
        chunk = reader.read_chunk()
    except StopIteration:
        break
    if chunk.data is not None:
        rows += chunk.data.to_pylist()
    metadata = chunk.app_metadata or metadata
told["flightsql"] = {"endpoints": len(info.endpoints), "rows": rows, "beside": json.loads(metadata.to_pybytes())}
print(json.dumps(told, default=str))
