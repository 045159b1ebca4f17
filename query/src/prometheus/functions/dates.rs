//! Functions of a moment, in UTC. A moment beyond the calendar is NaN.

use time::OffsetDateTime;

/// The function of this name; it takes Unix seconds.
pub(crate) fn find(name: &str) -> Option<fn(i64) -> f64> {
    Some(match name {
        "minute" => |seconds| of(seconds, |moment| moment.minute().into()),
        "hour" => |seconds| of(seconds, |moment| moment.hour().into()),
        "day_of_week" => |seconds| of(seconds, |moment| moment.weekday().number_days_from_sunday().into()),
        "day_of_month" => |seconds| of(seconds, |moment| moment.day().into()),
        "day_of_year" => |seconds| of(seconds, |moment| moment.ordinal().into()),
        "days_in_month" => |seconds| of(seconds, |moment| moment.month().length(moment.year()).into()),
        "month" => |seconds| of(seconds, |moment| u8::from(moment.month()).into()),
        "year" => |seconds| of(seconds, |moment| moment.year().into()),
        _ => return None,
    })
}

fn of(seconds: i64, part: impl Fn(OffsetDateTime) -> f64) -> f64 {
    OffsetDateTime::from_unix_timestamp(seconds).map_or(f64::NAN, part)
}
