//! Decisions looked up over rows in memory.
