//! What is a call, what is a reply, and what is neither.

use super::*;
use proptest::prelude::*;

fn single(text: &str) -> Result<Call, Invalid> {
    match read(&Bytes::copy_from_slice(text.as_bytes())).unwrap() {
        Body::Single(call) => call,
        other => panic!("no single call: {other:?}"),
    }
}

#[test]
fn ids_of_every_type_are_kept_as_written() {
    for id in ["1", "\"a\\u0041\"", "null", "-0.5e3", "123456789012345678901234567890"] {
        let call = single(&format!(r#" {{"jsonrpc":"2.0", "id": {id} ,"method":"m"}}"#)).unwrap();
        assert_eq!(call.id.as_deref(), Some(id.as_bytes()));
    }
    assert_eq!(single(r#"{"jsonrpc":"2.0","method":"m"}"#).unwrap().id, None);
}

#[test]
fn what_is_json_but_no_call_is_an_invalid_request() {
    for text in [
        "1",
        "{}",
        r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"m","params":"bar"}"#,
    ] {
        assert!(single(text).is_err(), "{text}");
    }
    assert!(matches!(read(&Bytes::from_static(b"{\"jsonrpc\"")), Err(NotJson)));
    assert!(matches!(read(&Bytes::from_static(b"[1,]")), Err(NotJson)));
}

#[test]
fn a_reply_passes_through_byte_for_byte_under_the_clients_id() {
    let body = Bytes::from_static(
        b" {\"extra\":[1.0], \"id\": 7 ,\"result\":{\"n\":1e400,\"a\": null},\"jsonrpc\":\"2.0\"}\n",
    );
    let reply = Reply::read(&body, 7).unwrap();
    let expected = "{\"extra\":[1.0], \"id\": \"x\" ,\"result\":{\"n\":1e400,\"a\": null},\"jsonrpc\":\"2.0\"}";
    assert_eq!(String::from_utf8(reply.under(b"\"x\"")).unwrap(), expected);
    let compact = reply.compact();
    assert_eq!((compact.under(b"\"x\""), &compact.result), (reply.under(b"\"x\""), &reply.result));
    assert!(Reply::read(&body, 8).is_none(), "another id is no reply to this call");
    assert!(Reply::read(&Bytes::from_static(b"{\"id\":7}"), 7).is_none());
    assert!(Reply::read(&Bytes::from_static(b"{\"id\":7,\"result\":null}"), 7).is_some());
}

#[test]
fn nesting_of_any_depth_is_read_without_recursion() {
    let deep = format!("{}1{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let call = single(&format!(r#"{{"jsonrpc":"2.0","id":1,"x":{deep},"method":"m","params":{deep}}}"#)).unwrap();
    assert_eq!(call.params.as_deref(), Some(deep.as_bytes()));
    let reply = Bytes::from(format!(r#"{{"id":7,"y":{deep},"result":{deep}}}"#));
    assert_eq!(Reply::read(&reply, 7).unwrap().result.as_deref(), Some(deep.as_bytes()));
    let error = Bytes::from(format!(r#"{{"id":7,"error":{{"code":3,"message":"m","data":{deep}}}}}"#));
    assert_eq!(Reply::read(&error, 7).unwrap().error.unwrap().data.as_deref(), Some(deep.as_bytes()));
    assert!(read(&Bytes::from("[".repeat(1_000_000))).is_err());
}

#[test]
fn bytes_that_are_no_json_are_refused_as_a_whole() {
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#;
    let whole = |bytes: &[u8]| read(&Bytes::copy_from_slice(bytes));
    assert!(whole(call.as_bytes()).is_ok());
    for bytes in [
        &b""[..],
        b" \n",
        &[call.as_bytes(), b" x"].concat(),
        &[call.as_bytes(), call.as_bytes()].concat(),
        &[call.as_bytes(), b"\0"].concat(),
        &[b"\xef\xbb\xbf", call.as_bytes()].concat(),
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\xff\"}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"x\":\"\xc3\"}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\0\"}",
        b"{\"jsonrpc\":\"2.0\",\"id\":01,\"method\":\"m\"}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",}",
        b"{'jsonrpc':'2.0','id':1,'method':'m'}",
        b"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\"}",
        b"NaN",
    ] {
        assert!(whole(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_member_that_is_there_twice_is_not_guessed_at() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}"#,
        r#"{"jsonrpc":"2.0","id":1,"\u0069d":2,"method":"m"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"m","method":"n"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[],"params":[1]}"#,
    ] {
        assert_eq!(single(text).unwrap_err().id, None, "{text}");
    }
    for text in [r#"{"id":7,"id":7,"result":1}"#, r#"{"id":7,"result":1,"result":2}"#] {
        assert!(Reply::read(&Bytes::copy_from_slice(text.as_bytes()), 7).is_none(), "{text}");
    }
    assert!(
        single(r#"{"jsonrpc":"2.0","id":1,"method":"m","x":1,"x":2}"#).is_ok(),
        "unknown ones are nobody's business"
    );
}

#[test]
fn the_calls_beyond_the_largest_batch_are_counted_and_not_kept() {
    let of = |count: usize| read(&Bytes::from(format!("[{}]", vec!["1"; count].join(",")))).unwrap();
    assert!(matches!(of(0), Body::Batch(items) if items.is_empty()));
    assert!(matches!(of(MAX_BATCH), Body::Batch(items) if items.len() == MAX_BATCH));
    assert!(matches!(of(100_000), Body::TooMany(100_000)));
    assert!(read(&Bytes::from(format!("[{}", "1,".repeat(1_000)))).is_err());
}

#[test]
fn an_error_is_read_whatever_its_message_is_and_only_the_beginning_of_a_long_one_is_kept() {
    let error = |message: &str| {
        let text = format!(r#"{{"id":7,"error":{{"code":-1,"message":{message},"more":1}}}}"#);
        Reply::read(&Bytes::from(text), 7).unwrap().error.unwrap()
    };
    assert_eq!(error(r#""\u0041 \"b\"""#).message, "A \"b\"");
    assert_eq!(error(r#""\ud800""#).message, r#""\ud800""#);
    assert_eq!((error("null").message, error("5").message), (String::new(), "5".to_owned()));
    assert_eq!(error(&format!("\"{}\"", "é".repeat(5_000))).message.len(), MAX_MESSAGE_BYTES - 1);
    for broken in
        [r#"{"id":7,"error":"no"}"#, r#"{"id":7,"error":{"message":"m"}}"#, r#"{"id":7,"error":{"code":"1"}}"#]
    {
        assert!(Reply::read(&Bytes::copy_from_slice(broken.as_bytes()), 7).is_none(), "{broken}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = read(&bytes);
        let _ = Reply::read(&bytes, 1);
    }

    #[test]
    fn a_payload_reads_back_as_the_call_it_was_made_of(method in ".{0,20}", number in any::<u64>()) {
        let text = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": [number]}).to_string();
        let call = single(&text).unwrap();
        let again = single(std::str::from_utf8(&call.payload(9)).unwrap()).unwrap();
        prop_assert_eq!(again.method, call.method);
        prop_assert_eq!(again.params, call.params);
        prop_assert_eq!(again.id.as_deref(), Some(&b"9"[..]));
    }
}
