//! `Retry-After`, in both forms that HTTP has: whole seconds, or a date. A date in the past is no wait, and no provider
//! can keep us away for longer than an hour with one header.

use std::time::SystemTime;

use http::{HeaderMap, header};

/// Longest wait that is believed.
const MAX_MS: u64 = 3_600_000;

/// How long the provider wants to be left alone, in milliseconds.
pub(crate) fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    of_text(headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim(), SystemTime::now())
}

fn of_text(text: &str, now: SystemTime) -> Option<u64> {
    let ms = match text.parse::<u64>() {
        Ok(seconds) => seconds.saturating_mul(1_000),
        Err(_) => {
            let until = httpdate::parse_http_date(text).ok()?;
            let wait = until.duration_since(now).unwrap_or_default();
            u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
        }
    };
    Some(ms.min(MAX_MS))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn seconds_and_dates_are_read_and_both_are_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_480);
        for (text, ms) in [
            ("0", Some(0)),
            ("7", Some(7_000)),
            ("99999999999999999999", None),
            ("18446744073709551615", Some(MAX_MS)),
            ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30_000)),
            ("Wednesday, 21-Oct-15 07:28:30 GMT", Some(30_000)),
            ("Wed Oct 21 07:28:30 2015", Some(30_000)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("Wed, 21 Oct 2099 07:28:00 GMT", Some(MAX_MS)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(of_text(text, now), ms, "{text}");
        }
    }
}
