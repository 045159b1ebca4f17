//! The collector's counters in Prometheus' text format. By hand and not through a metrics library: each value has one
//! owner already, in the store's counters or its state, and is read there when it is asked for.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use crate::call_metrics::escape;
use crate::ledger::Line;
use crate::store::core::{Core, Counters};

/// All of it.
pub(super) fn of(core: &Core) -> String {
    let mut text = String::new();
    counted(&core.counters, &mut text);
    held(core, &mut text);
    let ledger = core.state.lock().ledger();
    let open = ledger.iter().filter(|line| !line.counts.closes()).count();
    gauge(&mut text, "ledger_unbalanced", "Lines of the ledger that break invariant I-1", &open);
    records(&ledger, &mut text);
    text
}

fn counted(counters: &Counters, text: &mut String) {
    let counts = [
        ("requests_total", &counters.requests, "Requests committed"),
        ("refused_requests_total", &counters.refused_requests, "Requests refused"),
        ("refused_bytes_total", &counters.refused_bytes, "Bytes of refused requests"),
        ("dedup_conflicts_total", &counters.conflicts, "Known keys with other content"),
        ("dedup_keys", &counters.dedup_keys, "Keys remembered"),
        ("dedup_disk_bytes", &counters.dedup_disk_bytes, "Bytes of remembered keys on disk"),
        ("dedup_filter_bytes", &counters.dedup_filter_bytes, "Bytes of the filter before them"),
        ("dedup_failures_total", &counters.dedup_failures, "Times that keys could not be moved to disk"),
        ("clock_jumps_total", &counters.clock_jumps, "Times that the clock left the time that elapsed"),
        ("log_groups_total", &counters.groups, "Groups synced to the log"),
        ("log_failures_total", &counters.log_failures, "Groups that the log could not take"),
        ("log_torn_bytes_total", &counters.torn_bytes, "Bytes cut off the log at start"),
        ("checkpoint_failures_total", &counters.checkpoint_failures, "Checkpoints that could not be written"),
        ("start_from_checkpoint", &counters.checkpoint_used, "1 if this process began from a checkpoint"),
        ("start_log_bytes", &counters.start_log_bytes, "Bytes of the log that were read at the start"),
        (
            "start_replayed_entries",
            &counters.replayed_entries,
            "Entries of the log that were taken in again at the start",
        ),
        ("start_nanos", &counters.start_nanos, "Nanoseconds from the start to everything being readable again"),
        ("seals_total", &counters.seals, "Seals"),
        ("seal_failures_total", &counters.seal_failures, "Seals that failed"),
        ("odd_time_files_total", &counters.odd_files, "Sealed files whose rows lie in too many hours for a file each"),
        ("compactions_total", &counters.compactions, "Merges of sealed files"),
        ("compaction_failures_total", &counters.compaction_failures, "Merges that failed"),
        ("derived_hours_total", &counters.derived_hours, "Hours of rollups that were added up to longer cells"),
        ("packed_files_total", &counters.packed_files, "Files of longer cells that became fewer"),
        ("verified_files_total", &counters.verified_files, "Sealed files whose checksum was compared since the start"),
        ("quarantined_files", &counters.quarantined, "Sealed files set aside since they cannot be read"),
        ("expired_files_total", &counters.expired_files, "Files deleted past their retention"),
        ("expired_rows_total", &counters.expired_rows, "Rows deleted past their retention"),
        ("lost_files_total", &counters.lost_files, "Files deleted before their retention, for want of space"),
        ("lost_rows_total", &counters.lost_rows, "Rows gone before their retention"),
        ("copies_dropped_total", &counters.copies_dropped, "Local copies given up of files that the bucket has"),
        ("budget_refusals_total", &counters.budget_refusals, "Requests refused since the disk budget is used up"),
        ("uploads_total", &counters.uploads, "Files uploaded to the bucket"),
        ("upload_bytes_total", &counters.upload_bytes, "Bytes of these files"),
        ("upload_parts_total", &counters.upload_parts, "Parts of large files uploaded"),
        ("upload_failures_total", &counters.upload_failures, "Uploads that failed and are tried again"),
        (
            "upload_conflicts_total",
            &counters.upload_conflicts,
            "Files whose name in the bucket is taken by something else",
        ),
        ("upload_waiting_files", &counters.upload_waiting, "Final files that the bucket does not have yet"),
        ("disk_used_bytes", &counters.disk_used_bytes, "Bytes of the data directory, where there is a budget"),
        ("clock_jumped", &counters.clock_jumped, "1 while the clock is not believed and so nothing expires"),
    ];
    for (name, value, help) in counts {
        gauge(text, name, help, &value.load(Ordering::Relaxed));
    }
}

fn held(core: &Core, text: &mut String) {
    let (figures, (span_series, span_unpaired), watermark, lost) = {
        let state = core.state.lock();
        (state.figures(), state.span_metrics.figures(), state.watermark_unix_nanos, state.lost())
    };
    let segments = core.closed.lock().len() + 1;
    gauge(text, "log_segments", "Segments of the log", &segments);
    gauge(text, "hot_rows", "Rows in memory", &figures.hot_rows);
    gauge(text, "hot_bytes", "Bytes of rows in memory", &figures.hot_bytes);
    gauge(text, "rollup_cells", "Open cells", &figures.cells);
    gauge(text, "span_metric_series", "Series of the metrics of spans", &span_series);
    gauge(text, "span_metric_unpaired_total", "Ends of calls that found no room to wait for the other", &span_unpaired);
    gauge(text, "waiting_spans", "Spans that wait for their root", &figures.waiting);
    gauge(text, "waiting_bytes", "Bytes of spans that wait for their root", &figures.waiting_bytes);
    gauge(text, "unknown_weights_total", "Units kept whose weight is not known", &figures.unknown_weights);
    let (whole, drawn) = figures.verdicts_forgotten_early;
    let name = "verdicts_forgotten_early_total";
    gauge(text, name, "Verdicts of units kept whole that were forgotten before their window ended", &whole);
    let name = "drawn_verdicts_forgotten_early_total";
    gauge(text, name, "The same of units drawn at their rate, whose late spans are drawn alike", &drawn);
    gauge(text, "incomplete_decisions_total", "Decisions kept without all of their attempts", &figures.incomplete);
    let own = core.identity.boot_id.to_string();
    let of_own = lost.iter().filter(|lost| lost.boot_id == own).map(|lost| lost.decisions).sum::<i64>();
    let of_all = lost.iter().map(|lost| lost.decisions).sum::<i64>();
    gauge(text, "decision_seq_missing", "Decisions that this boot numbered and that never came", &of_own);
    gauge(text, "decision_seq_missing_known_boots", "The same of every boot that is remembered", &of_all);
    gauge(text, "sealed_files", "Sealed files", &figures.files);
    gauge(text, "watermark_unix_nanos", "Commit time up to which everything is visible", &watermark);
}

fn records(ledger: &[Line], text: &mut String) {
    let _ = writeln!(
        text,
        "# HELP lariat_collector_records_total Decoded records by fate\n# TYPE lariat_collector_records_total counter"
    );
    for line in ledger {
        let counts = line.counts;
        for (fate, count) in [
            ("received", counts.received),
            ("stored", counts.stored),
            ("sampled_out", counts.sampled_out),
            ("deduplicated", counts.deduplicated),
            ("rejected", counts.rejected),
            ("dropped", counts.dropped),
            ("in_flight", counts.in_flight),
        ] {
            let (signal, profile, account) = (line.key.signal, escape(&line.key.profile), escape(&line.key.account_id));
            let _ = writeln!(
                text,
                "lariat_collector_records_total{{signal=\"{signal}\",profile=\"{profile}\",account_id=\"{account}\",fate=\"{fate}\"}} {count}"
            );
        }
    }
}

fn gauge(text: &mut String, name: &str, help: &str, value: &dyn std::fmt::Display) {
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    let _ = writeln!(
        text,
        "# HELP lariat_collector_{name} {help}\n# TYPE lariat_collector_{name} {kind}\nlariat_collector_{name} {value}"
    );
}
