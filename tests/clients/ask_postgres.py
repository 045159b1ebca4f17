"""Asks over the wire protocol of Postgres with psycopg, which knows nothing of Lariat. Prints one JSON object.

ask_postgres.py <host> <port> <request id>
"""

import json
import sys
import uuid

import psycopg

host, port, request_id = sys.argv[1:]
told, notices = {}, []


def failure(connection, sql):
    try:
        connection.execute(sql)
    except psycopg.Error as error:
        return {"sqlstate": error.sqlstate, "message": str(error), "hint": error.diag.message_hint}
    return None


with psycopg.connect(host=host, port=port, dbname="lariat", user="me") as connection:
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    by_id = "SELECT method, time, duration_ns, request_id, eligible, trace_id FROM routing_decisions WHERE request_id = "
    for name, binary in [("text", False), ("binary", True)]:
        with connection.cursor(binary=binary) as cursor:
            row = cursor.execute(by_id + "%s", [request_id]).fetchone()
            told[name] = {
                "row": [str(value) if isinstance(value, uuid.UUID) else value for value in row],
                "types": [type(value).__name__ for value in row],
            }
    told["by_uuid"] = connection.execute(by_id + "%s", [uuid.UUID(request_id)]).fetchone()[0]
    # After five times a statement is prepared under a name.
    for _ in range(7):
        rows = connection.execute("SELECT count(*) FROM routing_decisions WHERE duration_ns >= %s AND time < now()", [0])
        told["prepared"] = rows.fetchone()[0]
    told["since"] = connection.execute(
        "SELECT count(*) FROM routing_decisions WHERE time >= %s", [told["text"]["row"][1]]
    ).fetchone()[0]
    told["status"] = connection.info.transaction_status.name
    told["wrong_table"] = failure(connection, "SELECT * FROM routing_decision")
    connection.rollback()
    told["write"] = failure(connection, "DELETE FROM spans")
    connection.rollback()
    connection.execute("SET lariat.min_coverage = 0.5")
    told["setting"] = connection.execute("SHOW lariat.min_coverage").fetchone()[0]
    connection.execute("RESET lariat.min_coverage")
    info = psycopg.types.TypeInfo.fetch(connection, "uuid")
    told["type"] = [info.name, info.oid, info.array_oid]
    with connection.cursor() as cursor:
        told["stream"] = sum(1 for _ in cursor.stream("SELECT * FROM candidates LIMIT 3"))
    connection.execute("SELECT count(*) FROM spans").fetchone()
    # A server-side cursor: declared with a value, described, fetched page by page.
    with connection.cursor(name="pages") as cursor:
        cursor.itersize = 2
        cursor.execute("SELECT provider_id FROM candidates WHERE request_id = %s ORDER BY provider_id", [request_id])
        told["cursor"] = [column.name for column in cursor.description] + [str(len(list(cursor)))]
    told["candidates"] = connection.execute("SELECT count(*) FROM candidates WHERE request_id = %s", [request_id]).fetchone()[0]
    for form in ["text", "binary"]:
        query = f"COPY (SELECT method, duration_ns FROM routing_decisions WHERE request_id = '{request_id}') TO STDOUT (FORMAT {form})"
        with connection.cursor() as cursor, cursor.copy(query) as copy:
            copy.set_types(["text", "int8"])
            told["copied_" + form] = [list(row) for row in copy.rows()]
told["notices"] = notices
print(json.dumps(told, default=str))
