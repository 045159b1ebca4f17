//! Functions of a window of samples.

mod extended;
mod rate;
mod regression;
mod summary;

use super::super::eval::Window;
use super::super::value::Sample;

/// A function of a window; `None` where it is not defined.
pub(crate) type RangeFunction = fn(&Window<'_>) -> Option<Sample>;

/// The function of this name, and whether the metric keeps its name.
pub(crate) fn find(name: &str) -> Option<(RangeFunction, bool)> {
    let function: RangeFunction = match name {
        "rate" => |window| rate::extrapolated(window, true, true),
        "increase" => |window| rate::extrapolated(window, true, false),
        "delta" => |window| rate::extrapolated(window, false, false),
        "irate" => |window| rate::instant(window, true),
        "idelta" => |window| rate::instant(window, false),
        "resets" => rate::resets,
        "changes" => rate::changes,
        "first_over_time" => return Some((summary::first, true)),
        "last_over_time" => return Some((summary::last, true)),
        "sum_over_time" => summary::sum,
        "avg_over_time" => summary::avg,
        "min_over_time" => summary::min,
        "max_over_time" => summary::max,
        "count_over_time" => summary::count,
        "present_over_time" => |_| Some(Sample::Float(1.0)),
        "quantile_over_time" => summary::quantile,
        "stddev_over_time" => summary::stddev,
        "stdvar_over_time" => summary::stdvar,
        "mad_over_time" => summary::mad,
        "ts_of_first_over_time" => summary::time_of_first,
        "ts_of_last_over_time" => summary::time_of_last,
        "ts_of_min_over_time" => summary::time_of_min,
        "ts_of_max_over_time" => summary::time_of_max,
        "deriv" => regression::deriv,
        "predict_linear" => regression::predict,
        "double_exponential_smoothing" => regression::smooth,
        _ => return None,
    };
    Some((function, false))
}
