//! topology → scan → distribute → merge → coverage → APIs.

pub mod ask;

pub mod prometheus;

pub mod reports;

pub mod decisions;

pub mod feed;

pub mod dashboard;
