//! The message of a gRPC call, cut into pieces as a fuzzer likes.

use bytes::Bytes;

use super::body::Message;

const LIMIT_BYTES: usize = 512;

/// Gives the bytes in pieces whose length is the first byte.
pub(crate) fn message(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let mut message = Message::default();
    for piece in bytes.chunks(usize::from(*piece).max(1)) {
        match message.push(Bytes::copy_from_slice(piece), LIMIT_BYTES) {
            Ok(declared) => assert!(declared.is_none_or(|declared| declared <= LIMIT_BYTES)),
            Err(_) => return,
        }
    }
    if let Ok((_, body)) = message.whole() {
        assert_eq!(Some(&body[..]), bytes.get(5..));
    }
}
