//! What a call says about itself in its headers: who asks, how much coverage is enough, how long to wait.

use std::time::Duration;

use lariat_schema::duration_text;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::ports::access::{Access, token_in};

/// Header of the lowest coverage that is good enough.
const MIN_COVERAGE: &str = "x-lariat-min-coverage";
/// Header of the longest wait.
const DEADLINE: &str = "x-lariat-deadline";
/// The token that a handshake gives where none is asked for; the protocol wants one.
const OPEN_TOKEN: &str = "open";

/// What a question asks for beside its SQL.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Wishes {
    pub(crate) min_coverage: Option<f64>,
    pub(crate) deadline: Option<Duration>,
}

/// The wishes in the headers.
pub(crate) fn wishes(headers: &MetadataMap) -> Result<Wishes, Status> {
    let min_coverage = text(headers, MIN_COVERAGE)?
        .map(|text| {
            let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
            number.ok_or_else(|| Status::invalid_argument(format!("{MIN_COVERAGE} is a number from 0 to 1")))
        })
        .transpose()?;
    let deadline = text(headers, DEADLINE)?
        .map(|text| {
            duration_text::parse(text).map_err(|error| Status::invalid_argument(format!("{DEADLINE}: {error}")))
        })
        .transpose()?;
    Ok(Wishes { min_coverage, deadline })
}

fn text<'a>(headers: &'a MetadataMap, name: &str) -> Result<Option<&'a str>, Status> {
    let read = |value: &'a tonic::metadata::AsciiMetadataValue| {
        value.to_str().map_err(|_| Status::invalid_argument(format!("the header {name} is no text")))
    };
    headers.get(name).map(read).transpose()
}

/// Whether the caller may ask; returns the token that it may go on with.
pub(crate) fn admit(access: &Access, headers: &MetadataMap) -> Result<String, Status> {
    let refused = |message: &str| {
        Status::unauthenticated(format!(
            "{message} (send the token of the query service as Bearer token, or as the password of Basic credentials)"
        ))
    };
    let Some(given) = headers.get("authorization") else {
        return if access.is_open() { Ok(OPEN_TOKEN.to_owned()) } else { Err(refused("no token was given")) };
    };
    let given = given.to_str().map_err(|_| refused("the header authorization is no text"))?;
    let token = token_in(given).map_err(refused)?;
    if access.admits(token.as_bytes()) { Ok(token) } else { Err(refused("the token is wrong")) }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::topology::Secret;

    fn headers(pairs: &[(&'static str, &str)]) -> MetadataMap {
        let mut headers = MetadataMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_token_is_taken_as_bearer_or_as_password_and_anything_else_is_refused() {
        let closed = Access::new(Some(Secret::new("abc")));
        let basic = format!("Basic {}", STANDARD.encode("anybody:abc"));
        for good in ["Bearer abc", "bearer abc", basic.as_str()] {
            assert_eq!(admit(&closed, &headers(&[("authorization", good)])).unwrap(), "abc", "{good}");
        }
        for bad in ["Bearer abd", "abc", "Digest abc", "Basic !!", "Basic YWJj"] {
            let refused = admit(&closed, &headers(&[("authorization", bad)])).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{bad}");
        }
        assert!(admit(&closed, &headers(&[])).is_err());
        assert!(admit(&Access::default(), &headers(&[])).is_ok());
        assert!(admit(&Access::default(), &headers(&[("authorization", "nonsense")])).is_err());
    }

    #[test]
    fn wishes_are_read_from_headers_and_absurd_ones_refused() {
        let found = wishes(&headers(&[(MIN_COVERAGE, "0.9"), (DEADLINE, "500ms")])).unwrap();
        assert_eq!(found, Wishes { min_coverage: Some(0.9), deadline: Some(Duration::from_millis(500)) });
        assert_eq!(wishes(&headers(&[])).unwrap(), Wishes::default());
        for (name, value) in [(MIN_COVERAGE, "2"), (MIN_COVERAGE, "x"), (DEADLINE, "soon")] {
            assert!(wishes(&headers(&[(name, value)])).is_err(), "{name}: {value}");
        }
    }
}
