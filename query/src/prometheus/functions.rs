//! What the functions mean, in groups by what they take: windows, floats, moments, labels, histograms.

pub(crate) mod dates;
pub(crate) mod histograms;
pub(crate) mod labels;
pub(crate) mod math;
pub(crate) mod over_time;
