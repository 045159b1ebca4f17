//! What must always hold, with an id that code and tests cite. Checked in debug builds, counted in release.

/// One invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invariant {
    /// Its id, cited as such in code, tests and documentation.
    pub id: &'static str,
    /// What holds.
    pub holds: &'static str,
}

/// Every invariant.
pub const ALL: &[Invariant] = &[
    Invariant {
        id: "I-1",
        holds: "received = stored + sampled out + deduplicated + rejected + dropped + in flight, per node, signal, profile and account",
    },
    Invariant { id: "I-2", holds: "acknowledged implies durable; durable implies queryable within one second" },
    Invariant { id: "I-3", holds: "within the dedup window, per node, a record is counted at most once in any answer" },
    Invariant { id: "I-4", holds: "the sum of adjusted counts is an unbiased estimate of the calls received" },
    Invariant { id: "I-5", holds: "an answer that lacks expected node-time says so" },
    Invariant { id: "I-6", holds: "an account never sees another's rows" },
    Invariant {
        id: "I-7",
        holds: "the request path takes no lock and waits for no disk and no network on behalf of telemetry",
    },
    Invariant { id: "I-8", holds: "every queue has a bound, and every refusal is counted with its reason" },
];
