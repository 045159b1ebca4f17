//! The shapes of replies, as JSON Schema. Written out and not derived: what is promised to clients changes on purpose only.

use lariat_schema::coverage::{NodeState, Why};
use serde_json::{Value, json};

/// All shapes by name.
pub(super) fn all() -> Value {
    json!({
        "Moment": {"description": "RFC 3339, a date, Unix seconds, `now`, or a time ago as -15m", "anyOf": [
            {"type": "number", "minimum": -9e9, "maximum": 9e9},
            {"type": "string", "format": "date-time"},
            {"type": "string", "pattern": r"^(now|-[0-9]{1,5}(ms|s|m|h|d)|[0-9]{1,10})$"},
        ]},
        "Duration": {"type": "string", "pattern": r"^[1-9][0-9]{0,5}(ms|s|m|h|d)$"},
        "TraceId": {"type": "string", "pattern": r"^[0-9a-f]{32}$"},
        "Question": {"type": "object", "additionalProperties": false, "required": ["q"], "properties": {
            "q": {"type": "string", "minLength": 1},
            "format": {"enum": ["json", "ndjson", "csv", "arrow", "parquet"]},
            "min_coverage": {"type": "number", "minimum": 0, "maximum": 1},
            "deadline": {"$ref": "#/components/schemas/Duration"},
        }},
        "Answer": {"type": "object", "required": ["columns", "rows", "coverage", "sampling", "stats"], "properties": {
            "columns": {"type": "array", "items": {"type": "object", "required": ["name", "type"],
                "properties": {"name": {"type": "string"}, "type": {"type": "string", "description": "Arrow's name"}}}},
            "rows": {"type": "array", "items": {"type": "object"}},
            "coverage": {"$ref": "#/components/schemas/Coverage"},
            "sampling": {"$ref": "#/components/schemas/Sampling"},
            "stats": {"$ref": "#/components/schemas/Stats"},
            "hint": {"type": "string"},
        }},
        "Decisions": {"type": "object", "required": ["decisions", "coverage", "sampling"], "properties": {
            "decisions": {"type": "array", "items": {"type": "object", "required": ["selections", "attempts"], "properties": {
                "selections": {"type": "array", "items": {"type": "object"}},
                "attempts": {"type": "array", "items": {"type": "object"}},
            }}},
            "coverage": {"$ref": "#/components/schemas/Coverage"},
            "sampling": {"$ref": "#/components/schemas/Sampling"},
        }},
        "Retired": {"type": "object", "required": ["node_id", "store_id", "retired_at", "by"], "properties": {
            "node_id": {"type": "string"}, "store_id": {"type": "string", "format": "uuid"},
            "retired_at": {"type": ["string", "null"], "format": "date-time"}, "by": {"type": ["string", "null"]},
        }},
        "Error": {"type": "object", "required": ["error"], "properties": {
            "error": {"type": "object", "required": ["code", "message", "hint"], "properties": {
                "code": {"type": "string"}, "message": {"type": "string"}, "hint": {"type": ["string", "null"]},
            }},
            "coverage": {"$ref": "#/components/schemas/Coverage"},
        }},
        "Sampling": {"type": "object", "required": ["weighted", "min_probability", "unknown_weight_share"], "properties": {
            "weighted": {"type": "boolean"}, "min_probability": ratio(), "unknown_weight_share": ratio(),
        }},
        "Stats": {"type": "object", "required": ["elapsed_ms", "rows", "bytes_scanned", "files_scanned", "cached", "age_ms"], "properties": {
            "elapsed_ms": {"type": "number"}, "rows": count(), "bytes_scanned": count(), "files_scanned": count(),
            "pruned": {"type": "object", "properties": {"files": count(), "row_groups": count(),
                "row_groups_by_bloom_filter": count(), "pages": count()}},
            "bytes_received": count(), "cached": {"type": "boolean"}, "age_ms": count(),
        }},
        "Coverage": coverage(),
        "NodeCoverage": node_coverage(),
    })
}

fn ratio() -> Value {
    json!({"type": "number", "minimum": 0, "maximum": 1})
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn moment_or_null() -> Value {
    json!({"type": ["string", "null"], "format": "date-time"})
}

fn coverage() -> Value {
    json!({"type": "object",
    "required": ["complete", "ratio", "expected", "connected", "responding", "answered", "window", "query_id", "regions"],
    "properties": {
        "complete": {"type": "boolean"}, "ratio": ratio(),
        "expected": count(), "connected": count(), "responding": count(), "answered": count(),
        "window": {"type": "object", "required": ["from", "to", "open_from"],
            "properties": {"from": moment_or_null(), "to": moment_or_null(), "open_from": moment_or_null()}},
        "query_id": {"type": "string"},
        "regions": {"type": "array", "items": {"type": "object", "required": ["region", "expected", "answered", "ratio"],
            "properties": {"region": {"type": "string"}, "expected": count(), "answered": count(), "ratio": ratio()}}},
        "nodes": {"type": "array", "items": {"$ref": "#/components/schemas/NodeCoverage"}},
    }})
}

fn node_coverage() -> Value {
    let names = |all: Vec<String>| json!({"enum": all});
    json!({"type": "object", "required": ["node_id", "region", "state", "answered", "source", "ratio", "missing", "watermark", "rows", "elapsed_ms", "error"],
    "properties": {
        "node_id": {"type": "string"}, "region": {"type": "string"},
        "state": names(NodeState::ALL.iter().map(ToString::to_string).collect()),
        "answered": {"type": "boolean"}, "source": {"enum": ["live", "bucket", null]}, "ratio": ratio(),
        "missing": {"type": "array", "items": {"type": "object", "required": ["from", "to", "why"], "properties": {
            "from": {"type": "string"}, "to": {"type": "string"},
            "why": names(Why::ALL.iter().map(ToString::to_string).collect())}}},
        "watermark": moment_or_null(), "rows": count(), "elapsed_ms": {"type": "number"}, "error": {"type": ["string", "null"]},
    }})
}
