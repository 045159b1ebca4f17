//! The identities in a load: functions of (seed, request, place), so that a test can name every span that was
//! acknowledged from a ledger of one line per request. They are spread evenly, since samplers read random bits in them.

/// Step of the splitmix64 generator.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// One round of splitmix64, which spreads any change of its input over all bits.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(STEP);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

const fn place(seed: u64, request: u64, item: u32) -> u64 {
    mix(mix(seed) ^ mix(request.wrapping_mul(STEP) ^ ((item as u64) << 40)))
}

/// Request id of the unit with this trace id: a UUIDv7 of the moment, as a proxy makes them.
#[must_use]
pub fn request_id(trace_id: [u8; 16], now_unix_nanos: u64) -> [u8; 16] {
    let mut id = trace_id;
    id[..6].copy_from_slice(&(now_unix_nanos / 1_000_000).to_be_bytes()[2..]);
    id
}

/// Trace id of unit `unit` of request `request`, in the form of a UUIDv7 like those of a proxy.
#[must_use]
pub fn trace_id(seed: u64, request: u64, unit: u32) -> [u8; 16] {
    let high = place(seed, request, unit);
    let low = mix(high ^ 0x7472_6163_655f_6964);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&high.to_be_bytes());
    id[8..].copy_from_slice(&low.to_be_bytes());
    id[6] = (id[6] & 0x0f) | 0x70;
    id[8] = (id[8] & 0x3f) | 0x80;
    id
}

/// Span id of span `span` of request `request`.
#[must_use]
pub fn span_id(seed: u64, request: u64, span: u32) -> [u8; 8] {
    mix(place(seed, request, span) ^ 0x7370_616e_5f69_6473).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_id_comes_twice_within_a_run_or_between_two() {
        let mut traces = HashSet::new();
        let mut spans = HashSet::new();
        for seed in 0..2 {
            for request in 0..300 {
                for item in 0..100 {
                    assert!(traces.insert(trace_id(seed, request, item)));
                    assert!(spans.insert(span_id(seed, request, item)));
                }
            }
        }
    }
}
