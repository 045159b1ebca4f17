//! Numbers of any length in the binary format of Postgres: digits of base 10,000 with the place of the first, a sign and
//! the number of decimals.

use bytes::{Buf, BufMut, BytesMut};

const NEGATIVE: u16 = 0x4000;
const NOT_A_NUMBER: u16 = 0xC000;
/// Most digits of base 10,000 that are read: more than any column can hold.
const MAX_DIGITS: u16 = 64;

/// Writes a number that is given as its digits.
pub(crate) fn put(text: &str, out: &mut BytesMut) {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (NEGATIVE, digits),
        None => (0, text),
    };
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = u16::try_from(decimals.len()).unwrap_or_default();
    let whole = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
    let decimals = format!("{decimals}{}", "0".repeat((4 - decimals.len() % 4) % 4));
    let weight = whole.len() / 4;
    let all = format!("{whole}{decimals}");
    let group =
        |start: usize| all.get(start..start + 4).and_then(|group| group.parse::<u16>().ok()).unwrap_or_default();
    let groups: Vec<u16> = (0..all.len()).step_by(4).map(group).collect();
    out.put_u16(u16::try_from(groups.len()).unwrap_or_default());
    out.put_i16(i16::try_from(weight).unwrap_or_default() - 1);
    out.put_u16(sign);
    out.put_u16(scale);
    for group in groups {
        out.put_u16(group);
    }
}

/// Reads one, as its digits; `None` if it is none.
pub(crate) fn read(mut bytes: &[u8]) -> Option<String> {
    if bytes.len() < 8 {
        return None;
    }
    let (count, weight, sign, scale) = (bytes.get_u16(), bytes.get_i16(), bytes.get_u16(), bytes.get_u16());
    if sign == NOT_A_NUMBER {
        return Some("NaN".to_owned());
    }
    let fits = bytes.len() == usize::from(count) * 2 && count <= MAX_DIGITS && weight.unsigned_abs() <= MAX_DIGITS;
    if !fits || scale > MAX_DIGITS * 4 {
        return None;
    }
    let groups: Vec<u16> = (0..count).map(|_| bytes.get_u16()).collect();
    let group = |place: i16| {
        let index = usize::try_from(i32::from(weight) - i32::from(place)).ok();
        index.and_then(|index| groups.get(index)).copied().unwrap_or_default()
    };
    let mut whole: String = (0..=weight).rev().map(|place| format!("{:04}", group(place))).collect();
    whole = whole.trim_start_matches('0').to_owned();
    if whole.is_empty() {
        whole.push('0');
    }
    let places = i16::try_from(scale.div_ceil(4)).ok()?;
    let mut decimals: String = (1..=places).map(|place| format!("{:04}", group(-place))).collect();
    decimals.truncate(usize::from(scale));
    let minus = if sign == NEGATIVE { "-" } else { "" };
    Some(if decimals.is_empty() { format!("{minus}{whole}") } else { format!("{minus}{whole}.{decimals}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(text: &str) -> BytesMut {
        let mut out = BytesMut::new();
        put(text, &mut out);
        out
    }

    #[test]
    fn twelve_thousand_three_hundred_forty_five_and_six_tenths_is_written_as_postgres_writes_it() {
        let expected = [0, 3, 0, 1, 0, 0, 0, 1, 0, 1, 9, 41, 23, 112];
        assert_eq!(written("12345.6")[..], expected);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(minus in any::<bool>(), whole in any::<u64>(), decimals in "[0-9]{0,9}") {
            let digits = if decimals.is_empty() { whole.to_string() } else { format!("{whole}.{decimals}") };
            let text = if minus { format!("-{digits}") } else { digits };
            prop_assert_eq!(read(&written(&text)).unwrap(), text);
        }

        #[test]
        fn arbitrary_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = read(&bytes);
        }
    }
}
