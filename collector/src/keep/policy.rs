//! How much of a profile's traffic is kept: settings of the binary, in force from a point in the log.

use std::collections::BTreeMap;

use lariat_schema::ids::ProfileName;
use serde::{Deserialize, Serialize};

/// Duration from which a call is slow, in milliseconds.
pub const DEFAULT_SLOW_MS: u64 = 1_000;
/// Decisions that are kept whole per second and profile: an outage must not fill the disk.
pub const DEFAULT_KEPT_WHOLE_PER_SECOND: u64 = 100;
/// Rate of a profile that names none.
pub const DEFAULT_RATE: f64 = 0.05;

/// What is kept of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingPolicy {
    /// Share of ordinary decisions that is kept, 0 to 1.
    #[serde(with = "lariat_schema::double_text")]
    pub rate: f64,
    /// Milliseconds from which a decision is kept whole.
    pub slow_ms: u64,
    /// Decisions kept whole per second; those above are sampled too.
    pub kept_whole_per_second: u64,
}

impl Default for SamplingPolicy {
    fn default() -> Self {
        Self::with_rate(DEFAULT_RATE)
    }
}

impl SamplingPolicy {
    /// The defaults with another rate.
    #[must_use]
    pub const fn with_rate(rate: f64) -> Self {
        Self { rate, slow_ms: DEFAULT_SLOW_MS, kept_whole_per_second: DEFAULT_KEPT_WHOLE_PER_SECOND }
    }
}

/// Policies of all profiles, by slug; a profile that is not listed has [`SamplingPolicy::default`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Policies(BTreeMap<String, SamplingPolicy>);

impl Default for Policies {
    fn default() -> Self {
        let shipped = [("free", 0.01), ("premium", 0.05), ("byok", 0.2), (ProfileName::DEFAULT, 1.0)];
        Self(shipped.map(|(profile, rate)| (profile.to_owned(), SamplingPolicy::with_rate(rate))).into())
    }
}

impl Policies {
    /// The same with the policy of one profile set.
    #[must_use]
    pub fn with(mut self, profile: &str, policy: SamplingPolicy) -> Self {
        self.0.insert(profile.to_owned(), policy);
        self
    }

    /// The policy of a profile; a record without a profile belongs to the default one.
    #[must_use]
    pub fn of(&self, profile: Option<&str>) -> SamplingPolicy {
        self.0.get(profile.unwrap_or(ProfileName::DEFAULT)).copied().unwrap_or_default()
    }
}
