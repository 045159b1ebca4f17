//! Doubles that are stored as JSON, in manifests and in the log, come back as they were.

use serde_json::json;

use crate::keep::SamplingPolicy;
use crate::store::Weights;

fn again(heaviest: f64) -> f64 {
    let text = serde_json::to_string(&Weights { heaviest, unknown: 1 }).unwrap();
    serde_json::from_str::<Weights>(&text).unwrap().heaviest
}

#[test]
fn every_double_comes_back_to_the_last_bit() {
    let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
    let mut lost_by_numbers = 0;
    for _ in 0..20_000 {
        bits = bits.wrapping_mul(0x2545_f491_4f6c_dd1d).rotate_left(17) ^ 0x1234;
        let value = f64::from_bits(bits);
        if value.is_finite() {
            assert_eq!(again(value).to_bits(), bits, "{value}");
            let number: f64 = serde_json::from_str(&serde_json::to_string(&value).unwrap()).unwrap();
            lost_by_numbers += usize::from(number.to_bits() != bits);
        }
    }
    assert!(lost_by_numbers > 0, "numbers would do as well");
    for value in [0.0, -0.0, 1.0, 0.1, 1.0 / 3.0, 20.000_000_000_000_004, 1e300, f64::INFINITY, f64::MIN_POSITIVE] {
        assert_eq!(again(value).to_bits(), value.to_bits(), "{value}");
    }
}

#[test]
fn numbers_of_older_manifests_and_logs_are_read_and_other_values_are_not() {
    let read =
        |heaviest: serde_json::Value| serde_json::from_value::<Weights>(json!({"heaviest": heaviest, "unknown": 0}));
    for (written, value) in [(json!(7), 7.0), (json!(-7), -7.0), (json!(0.25), 0.25), (json!("0.25"), 0.25)] {
        assert_eq!(read(written).unwrap().heaviest.to_bits(), f64::to_bits(value));
    }
    for bad in [json!(""), json!("x"), json!(null), json!([]), json!(true)] {
        assert!(read(bad.clone()).is_err(), "{bad}");
    }
    let policy: SamplingPolicy = serde_json::from_value(json!({"rate": 0.05, "slow_ms": 1})).unwrap();
    assert_eq!(policy.rate.to_bits(), 0.05_f64.to_bits());
}
