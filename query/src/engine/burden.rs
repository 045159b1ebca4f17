//! What a question would read, told before it reads anything: a question over years that was meant for an hour should cost a
//! sentence and not a fleet's disks. By the sizes of whole files, since how much of them statistics rule out is not known
//! yet; so the bound is generous.

use lariat_collector::worker::wire::DaySize;

use crate::ask::AskError;

const NANOS_PER_DAY: i64 = 86_400 * lariat_schema::time_range::NANOS_PER_SECOND;

/// Files that may have rows of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Burden {
    bytes: u64,
    times: Option<(i64, i64)>,
}

impl Burden {
    pub(crate) fn add(&mut self, size: &DaySize) {
        self.bytes = self.bytes.saturating_add(size.bytes);
        let (from, to) = self.times.unwrap_or((size.from_unix_nanos, size.to_unix_nanos));
        self.times = Some((from.min(size.from_unix_nanos), to.max(size.to_unix_nanos)));
    }

    /// Refuses what is too much, and says how much of the time would not be.
    pub(crate) fn within(self, max_bytes: u64) -> Result<(), AskError> {
        if self.bytes <= max_bytes {
            return Ok(());
        }
        let hours = self.times.map_or(0, |(from, to)| to.saturating_sub(from)) / (NANOS_PER_DAY / 24);
        let message = format!(
            "the question would read files of {} ({hours} h of data), and may read {}",
            size_text(self.bytes),
            size_text(max_bytes)
        );
        #[allow(clippy::cast_precision_loss, reason = "a length of time for a sentence")]
        let fits_hours = hours as f64 * (max_bytes as f64 / self.bytes as f64);
        let hint = format!(
            "narrow it by time, as `time >= now() - INTERVAL '1 hour'` (about {fits_hours:.1} h fit), ask rollups or a \
             report, or raise `query.max_scan_bytes`"
        );
        Err(AskError::TooLarge { message, hint: Some(hint) })
    }
}

#[allow(clippy::cast_precision_loss, reason = "a size for a sentence")]
fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1_024.0 && unit + 1 < UNITS.len() {
        size /= 1_024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use lariat_schema::tables::Table;

    use super::*;

    #[test]
    fn what_is_too_much_says_how_much_and_what_would_fit() {
        let mut burden = Burden::default();
        for day in 0..10 {
            let from = day * NANOS_PER_DAY;
            let size = DaySize {
                table: Table::Spans,
                from_unix_nanos: from,
                to_unix_nanos: from + NANOS_PER_DAY,
                bytes: 1 << 30,
            };
            burden.add(&size);
        }
        assert!(burden.within(10 << 30).is_ok());
        let Err(AskError::TooLarge { message, hint }) = burden.within(1 << 30) else { panic!("it may read all") };
        assert_eq!(message, "the question would read files of 10.0 GiB (240 h of data), and may read 1.0 GiB");
        assert!(hint.unwrap().contains("about 24.0 h fit"));
    }
}
