//! The decision, filter by filter.
