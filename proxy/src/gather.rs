//! Reads a whole body, a client's or a provider's, within two bounds: its own length, and what whoever asks has room for as
//! the bytes arrive. What a peer says of the length is believed only where it is too long; nothing is allocated for a
//! promise. Collecting the frames and joining them at the end was rejected: a peer who sends single bytes makes each of
//! them hold a whole buffer.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;

/// Why a body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It is longer than it may be.
    TooLong,
    /// There is no room for it now.
    NoRoom,
    /// It broke off, or is not what HTTP allows.
    Broken,
}

/// Reads a body of at most so many bytes; `room` is asked before more are kept.
///
/// # Errors
/// See [`Unread`].
pub(crate) async fn gather<B>(body: B, most: usize, mut room: impl FnMut(usize) -> bool) -> Result<Bytes, Unread>
where
    B: Body<Data = Bytes>,
{
    if usize::try_from(body.size_hint().lower()).map_or(true, |promised| promised > most) {
        return Err(Unread::TooLong);
    }
    let mut body = std::pin::pin!(body);
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.as_mut().frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
        if data.len() > most - (first.len() + all.len()) {
            return Err(Unread::TooLong);
        }
        if !room(data.len()) {
            return Err(Unread::NoRoom);
        }
        if all.is_empty() && first.is_empty() {
            first = data;
            continue;
        }
        all.extend_from_slice(&std::mem::take(&mut first));
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}
