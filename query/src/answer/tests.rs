//! Every type that the contract names, as JSON.

use std::sync::Arc;

use arrow::array::{
    BinaryArray, FixedSizeBinaryArray, Float64Array, Int64Array, MapBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampNanosecondArray, UInt64Array,
};

use super::*;

fn json(batch: &RecordBatch) -> Vec<serde_json::Value> {
    let mut out = Vec::new();
    rows_as_json(batch, |out| out.push(b'\n'), &mut out).unwrap();
    String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn numbers_keep_all_digits_and_what_is_no_number_is_null() {
    let batch = RecordBatch::try_from_iter([
        ("i", Arc::new(Int64Array::from(vec![i64::MIN, 9_007_199_254_740_993])) as ArrayRef),
        ("u", Arc::new(UInt64Array::from(vec![u64::MAX, 0]))),
        ("f", Arc::new(Float64Array::from(vec![f64::NAN, 0.1]))),
    ])
    .unwrap();
    let mut out = Vec::new();
    rows_as_json(&batch, |out| out.push(b'\n'), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(
        text,
        "{\"i\":-9223372036854775808,\"u\":18446744073709551615,\"f\":null}\n{\"i\":9007199254740993,\"u\":0,\"f\":0.1}\n"
    );
}

#[test]
fn ids_are_hexadecimal_request_ids_are_uuids_and_times_have_nanoseconds() {
    let bytes: Vec<u8> = (0..16).collect();
    let id = || Arc::new(FixedSizeBinaryArray::try_from_iter([bytes.clone()].into_iter()).unwrap()) as ArrayRef;
    let time = TimestampNanosecondArray::from(vec![1_763_683_200_000_000_001]).with_timezone("UTC");
    let batch = RecordBatch::try_from_iter([
        ("request_id", id()),
        ("trace_id", id()),
        ("time", Arc::new(time)),
        ("raw", Arc::new(BinaryArray::from_vec(vec![b"\x00\xff"]))),
        ("text", Arc::new(StringArray::from(vec!["a\"b\n"]))),
    ])
    .unwrap();
    assert_eq!(
        json(&batch)[0],
        serde_json::json!({
            "request_id": "00010203-0405-0607-0809-0a0b0c0d0e0f", "trace_id": "000102030405060708090a0b0c0d0e0f",
            "time": "2025-11-21T00:00:00.000000001Z", "raw": "AP8=", "text": "a\"b\n",
        })
    );
}

#[test]
fn maps_are_objects() {
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    map.keys().append_value("k");
    map.values().append_value("v");
    map.append(true).unwrap();
    let batch = RecordBatch::try_from_iter([("attributes", Arc::new(map.finish()) as ArrayRef)]).unwrap();
    assert_eq!(json(&batch)[0], serde_json::json!({"attributes": {"k": "v"}}));
}
