"""Reads sealed files with DuckDB, which knows nothing of Lariat. Prints one JSON object.

read_parquet.py <glob of Parquet files> <SQL over the table `files`>
"""

import json
import sys

import duckdb

pattern, query = sys.argv[1], sys.argv[2]
connection = duckdb.connect()
connection.execute(
    "CREATE VIEW files AS SELECT * FROM read_parquet(?, hive_partitioning = true, filename = true)".replace("?", "'" + pattern.replace("'", "''") + "'")
)
result = connection.execute(query)
names = [column[0] for column in result.description]
rows = [dict(zip(names, row)) for row in result.fetchall()]
print(json.dumps(rows, default=str))
