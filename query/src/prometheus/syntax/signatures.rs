//! The functions that exist and the types of their arguments. Their meanings are in `functions`; a name that stands here
//! and has no meaning there fails a test.

use super::ast::ValueType::{self, Matrix, Scalar, Text, Vector};

/// Name and types of a function.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    /// Its name.
    pub(crate) name: &'static str,
    /// Types of its arguments; the last one repeats where `optional` is negative.
    pub(crate) arguments: &'static [ValueType],
    /// 0: exactly these; n: the last may be absent or stand up to n times; -1: any number of times.
    pub(crate) optional: i32,
    /// Type of its value.
    pub(crate) returns: ValueType,
}

const fn f(name: &'static str, arguments: &'static [ValueType], returns: ValueType) -> Signature {
    Signature { name, arguments, optional: 0, returns }
}

const fn v(name: &'static str, arguments: &'static [ValueType], optional: i32, returns: ValueType) -> Signature {
    Signature { name, arguments, optional, returns }
}

/// All of them.
pub(crate) static ALL: &[Signature] = &[
    f("abs", &[Vector], Vector),
    f("absent", &[Vector], Vector),
    f("absent_over_time", &[Matrix], Vector),
    f("acos", &[Vector], Vector),
    f("acosh", &[Vector], Vector),
    f("asin", &[Vector], Vector),
    f("asinh", &[Vector], Vector),
    f("atan", &[Vector], Vector),
    f("atanh", &[Vector], Vector),
    f("avg_over_time", &[Matrix], Vector),
    f("ceil", &[Vector], Vector),
    f("changes", &[Matrix], Vector),
    f("clamp", &[Vector, Scalar, Scalar], Vector),
    f("clamp_max", &[Vector, Scalar], Vector),
    f("clamp_min", &[Vector, Scalar], Vector),
    f("cos", &[Vector], Vector),
    f("cosh", &[Vector], Vector),
    f("count_over_time", &[Matrix], Vector),
    v("day_of_month", &[Vector], 1, Vector),
    v("day_of_week", &[Vector], 1, Vector),
    v("day_of_year", &[Vector], 1, Vector),
    v("days_in_month", &[Vector], 1, Vector),
    f("deg", &[Vector], Vector),
    f("delta", &[Matrix], Vector),
    f("deriv", &[Matrix], Vector),
    f("double_exponential_smoothing", &[Matrix, Scalar, Scalar], Vector),
    f("end", &[], Scalar),
    f("exp", &[Vector], Vector),
    f("first_over_time", &[Matrix], Vector),
    f("floor", &[Vector], Vector),
    f("histogram_avg", &[Vector], Vector),
    f("histogram_count", &[Vector], Vector),
    f("histogram_fraction", &[Scalar, Scalar, Vector], Vector),
    f("histogram_quantile", &[Scalar, Vector], Vector),
    v("histogram_quantiles", &[Vector, Text, Scalar, Scalar], 9, Vector),
    f("histogram_stddev", &[Vector], Vector),
    f("histogram_stdvar", &[Vector], Vector),
    f("histogram_sum", &[Vector], Vector),
    v("hour", &[Vector], 1, Vector),
    f("idelta", &[Matrix], Vector),
    f("increase", &[Matrix], Vector),
    f("irate", &[Matrix], Vector),
    v("label_join", &[Vector, Text, Text, Text], -1, Vector),
    f("label_replace", &[Vector, Text, Text, Text, Text], Vector),
    f("last_over_time", &[Matrix], Vector),
    f("ln", &[Vector], Vector),
    f("log10", &[Vector], Vector),
    f("log2", &[Vector], Vector),
    f("mad_over_time", &[Matrix], Vector),
    f("max_of", &[Scalar, Scalar], Scalar),
    f("max_over_time", &[Matrix], Vector),
    f("min_of", &[Scalar, Scalar], Scalar),
    f("min_over_time", &[Matrix], Vector),
    v("minute", &[Vector], 1, Vector),
    v("month", &[Vector], 1, Vector),
    f("pi", &[], Scalar),
    f("predict_linear", &[Matrix, Scalar], Vector),
    f("present_over_time", &[Matrix], Vector),
    f("quantile_over_time", &[Scalar, Matrix], Vector),
    f("rad", &[Vector], Vector),
    f("range", &[], Scalar),
    f("rate", &[Matrix], Vector),
    f("resets", &[Matrix], Vector),
    v("round", &[Vector, Scalar], 1, Vector),
    f("scalar", &[Vector], Scalar),
    f("sgn", &[Vector], Vector),
    f("sin", &[Vector], Vector),
    f("sinh", &[Vector], Vector),
    f("sort", &[Vector], Vector),
    v("sort_by_label", &[Vector, Text], -1, Vector),
    v("sort_by_label_desc", &[Vector, Text], -1, Vector),
    f("sort_desc", &[Vector], Vector),
    f("sqrt", &[Vector], Vector),
    f("start", &[], Scalar),
    f("stddev_over_time", &[Matrix], Vector),
    f("stdvar_over_time", &[Matrix], Vector),
    f("step", &[], Scalar),
    f("sum_over_time", &[Matrix], Vector),
    f("tan", &[Vector], Vector),
    f("tanh", &[Vector], Vector),
    f("time", &[], Scalar),
    f("timestamp", &[Vector], Vector),
    f("ts_of_first_over_time", &[Matrix], Vector),
    f("ts_of_last_over_time", &[Matrix], Vector),
    f("ts_of_max_over_time", &[Matrix], Vector),
    f("ts_of_min_over_time", &[Matrix], Vector),
    f("vector", &[Scalar], Vector),
    v("year", &[Vector], 1, Vector),
];

/// The function of this name.
pub(crate) fn find(name: &str) -> Option<&'static Signature> {
    ALL.iter().find(|signature| signature.name == name)
}
