//! What a call costs: its bytes in and out in KiB, times the weight of its method's class, rounded up, and at least one.
//! Reckoned from the record and nothing else, so that a bill can be checked against the rows that it is made of.

use lariat_schema::vocabulary::MethodClass;

/// Weights are kept in quarters, since a quarter is the smallest.
const QUARTERS_OF_KIBIBYTE: u64 = 4 * 1024;

/// Weight of a class, in quarters.
const fn weight_quarters(class: MethodClass) -> u64 {
    match class {
        // What is pushed was not asked for each time.
        MethodClass::Subscriptions => 1,
        MethodClass::Core | MethodClass::Submit | MethodClass::Other => 4,
        MethodClass::State | MethodClass::Txpool => 6,
        MethodClass::Filters => 8,
        MethodClass::Debug | MethodClass::Trace => 20,
    }
}

/// Billable units of a call by the name that it is recorded under.
pub(super) fn billable(method: &str, bytes_in: u64, bytes_out: u64) -> u64 {
    let bytes = bytes_in.saturating_add(bytes_out);
    bytes.saturating_mul(weight_quarters(MethodClass::of(method))).div_ceil(QUARTERS_OF_KIBIBYTE).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_weighted_kibibytes_rounded_up_and_at_least_one() {
        for (method, bytes_in, bytes_out, units) in [
            ("eth_gasPrice", 0, 0, 1),
            ("eth_gasPrice", 24, 1_000, 1),
            ("eth_gasPrice", 25, 1_000, 2),
            ("eth_call", 0, 1_024, 2),
            ("eth_getLogs", 24, 10_216, 20),
            ("debug_traceCall", 0, 1_024, 5),
            ("trace_block", 0, 1_024, 5),
            ("eth_subscribe", 0, 4_096, 1),
            ("eth_subscribe", 0, 4_097, 2),
            ("eth_sendRawTransaction", 1_025, 0, 2),
            ("_OTHER", 1_024, 1_024, 2),
        ] {
            assert_eq!(billable(method, bytes_in, bytes_out), units, "{method} {bytes_in} {bytes_out}");
        }
        assert!(billable("eth_call", u64::MAX, u64::MAX) > 1 << 50, "no overflow");
    }
}
