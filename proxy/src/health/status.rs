//! The health of an instance as its probes see it. It is told and shown; which calls an instance gets is decided by its
//! circuits, limits and heights, which know more and sooner.

use std::sync::Arc;

/// What the probes make of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Status {
    /// No probe has ended yet.
    #[default]
    Connecting,
    Healthy,
    /// A few probes failed, or what they said cannot be.
    Degraded,
    Unhealthy,
    RateLimited,
    /// Refuses our credentials, or serves another chain.
    Misconfigured,
}

impl Status {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::RateLimited => "rate_limited",
            Self::Misconfigured => "misconfigured",
        }
    }
}

impl serde::Serialize for Status {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The health of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Health {
    pub(crate) status: Status,
    /// Probes that ended so far.
    pub(crate) probes: u64,
    pub(crate) failures_in_a_row: u32,
    pub(crate) successes_in_a_row: u32,
    /// What the latest probe said.
    pub(crate) reason: Option<Arc<str>>,
    /// When the latest probe ended, on the book's clock.
    pub(crate) probed_at_ms: Option<u64>,
}
