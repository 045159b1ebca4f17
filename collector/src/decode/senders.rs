//! Columns that say who sent a request, kept for the sender's next one.
//!
//! What tells of a resource and its scope is the same in every row, is often more than the rows' own values, and a sender under
//! load sends as many rows each time. So the columns are made once and each batch holds them, or their beginning. Columns of one
//! value and a count were rejected: nothing that reads a batch would know them. Only a request with a single resource
//! and scope is looked for, which is what an SDK sends; what a gateway has put together differs each time.
//!
//! Nothing is taken for the same by its hash: whoever found two resources with one hash could be taken for another.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, MapArray};
use arrow::datatypes::DataType;
use lariat_schema::tables::Table;
use parking_lot::Mutex;

use super::origin::Context;

/// Senders that are remembered, the latest ones.
const MAX_SENDERS: usize = 64;
/// Bytes of all their columns.
const MAX_BYTES: usize = 4 << 20;
/// Bytes of one's: what takes more is made each time.
const MAX_SENDER_BYTES: usize = MAX_BYTES / 4;
/// Rows below which columns are made each time: it costs less than to look for them.
const MIN_ROWS: usize = 64;

/// Columns by their names.
pub(super) type Named = Vec<(&'static str, ArrayRef)>;

/// Who sent requests lately, the last one first.
#[derive(Debug, Default)]
pub struct Senders(Mutex<Vec<Sender>>);

#[derive(Debug)]
struct Sender {
    table: Table,
    context: Context,
    rows: usize,
    columns: Arc<Named>,
    bytes: usize,
}

impl Senders {
    /// The columns of so many rows that all come from the context; `make` makes them where they are not known.
    pub(super) fn columns(&self, table: Table, context: &Context, rows: usize, make: impl FnOnce() -> Named) -> Named {
        if rows < MIN_ROWS {
            return make();
        }
        if let Some(known) = self.find(table, context, rows) {
            return known.iter().map(|(name, column)| (*name, beginning(column, rows))).collect();
        }
        let columns = Arc::new(make());
        self.remember(Sender {
            table,
            context: context.clone(),
            rows,
            bytes: columns.iter().map(|(_, column)| column.get_buffer_memory_size()).sum(),
            columns: Arc::clone(&columns),
        });
        columns.to_vec()
    }

    /// Columns that are as long as wanted, or little longer: a batch keeps all of them in memory, however few rows it has.
    fn find(&self, table: Table, context: &Context, rows: usize) -> Option<Arc<Named>> {
        let mut senders = self.0.lock();
        let at = senders.iter().position(|sender| sender.table == table && sender.context == *context)?;
        senders[..=at].rotate_right(1);
        let sender = &senders[0];
        (rows <= sender.rows && sender.rows - rows < rows).then(|| Arc::clone(&sender.columns))
    }

    fn remember(&self, sender: Sender) {
        if sender.bytes > MAX_SENDER_BYTES {
            return;
        }
        let mut senders = self.0.lock();
        senders.retain(|known| known.table != sender.table || known.context != sender.context);
        senders.insert(0, sender);
        let mut bytes = 0;
        senders.retain(|sender| {
            bytes += sender.bytes;
            bytes <= MAX_BYTES
        });
        senders.truncate(MAX_SENDERS);
    }

    /// Bytes of all columns.
    pub(crate) fn bytes(&self) -> usize {
        self.0.lock().iter().map(|sender| sender.bytes).sum()
    }
}

/// The first rows of a column. Of a map's entries only those that belong to them, so that nobody looks at more.
fn beginning(column: &ArrayRef, rows: usize) -> ArrayRef {
    if column.len() == rows {
        return Arc::clone(column);
    }
    let DataType::Map(field, sorted) = column.data_type() else { return column.slice(0, rows) };
    let maps = column.as_map();
    let offsets = maps.offsets().slice(0, rows);
    let entries = maps.entries().slice(0, usize::try_from(offsets[rows]).unwrap_or_default());
    let nulls = maps.nulls().map(|nulls| nulls.slice(0, rows));
    let maps = MapArray::try_new(Arc::clone(field), offsets, entries, nulls, *sorted);
    Arc::new(maps.expect("a map's beginning ends with its entries"))
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;
    use lariat_schema::vocabulary::Signal;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::decode::{Encoding, Form, decode_mapped};

    fn resource(service: usize) -> Resource {
        let text = |key: &str, value: String| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(any_value::Value::StringValue(value)) }),
            ..KeyValue::default()
        };
        let attributes =
            vec![text("service.name", format!("service-{service}")), text("host.name", "h".repeat(service))];
        Resource { attributes, ..Resource::default() }
    }

    fn context(service: usize) -> Context {
        let mut context = Context::of(&resource(service));
        context
            .enter(&InstrumentationScope { name: "scope".to_owned(), ..InstrumentationScope::default() }, Table::Spans);
        context
    }

    /// Log records of one or two services, as JSON.
    fn logs(services: &[usize], records: usize) -> Value {
        let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        let record =
            |nth: usize| json!({"timeUnixNano": "1760000000000000001", "body": {"stringValue": nth.to_string()}});
        let records: Vec<Value> = (0..records).map(record).collect();
        let of_service = |service: &usize| {
            let attributes =
                [text("service.name", &format!("service-{service}")), text("host.name", &"h".repeat(*service))];
            json!({"resource": {"attributes": attributes}, "scopeLogs": [{"scope": {"name": "scope"}, "logRecords": records}]})
        };
        json!({"resourceLogs": services.iter().map(of_service).collect::<Vec<_>>()})
    }

    fn read(request: &Value, senders: Option<&Senders>) -> RecordBatch {
        let form = Form { signal: Signal::Logs, encoding: Encoding::Json, trusted: true };
        decode_mapped(request.to_string().as_bytes(), form, 7, None, senders).unwrap().decoded.batch
    }

    proptest! {
        #[test]
        fn rows_are_the_same_whatever_the_sender_sent_before(
            requests in proptest::collection::vec((proptest::collection::vec(0_usize..3, 1..3), 1_usize..200), 1..12),
        ) {
            let senders = Senders::default();
            for (services, records) in requests {
                let request = logs(&services, records);
                prop_assert_eq!(read(&request, Some(&senders)), read(&request, None));
            }
        }
    }

    fn address(batch: &RecordBatch) -> usize {
        let maps = batch.column_by_name("resource_attributes").unwrap().as_map();
        maps.values().as_string::<i32>().values().as_ptr().addr()
    }

    #[test]
    fn a_senders_next_request_has_the_columns_of_its_last_one_unless_it_has_more_rows_or_far_fewer() {
        let senders = Senders::default();
        let first = read(&logs(&[1], 200), Some(&senders));
        let other = read(&logs(&[2], 200), Some(&senders));
        let fewer = read(&logs(&[1], 150), Some(&senders));
        assert_eq!(address(&first), address(&fewer));
        assert_ne!(address(&first), address(&other));
        for records in [100, 201, 10] {
            assert_ne!(address(&first), address(&read(&logs(&[1], records), Some(&senders))), "{records}");
        }
        let last = read(&logs(&[1], 201), Some(&senders));
        assert_eq!(address(&last), address(&read(&logs(&[1], 201), Some(&senders))));
    }

    #[test]
    fn two_contexts_of_one_hash_are_two() {
        let senders = Senders::default();
        let (one, mut two) = (context(1), context(2));
        two.hash = one.hash;
        let column =
            |text: &str| -> Named { vec![("service_name", Arc::new(arrow::array::StringArray::from(vec![text; 64])))] };
        for (context, text) in [(&one, "one"), (&two, "two"), (&one, "one")] {
            let columns = senders.columns(Table::Spans, context, 64, || column(text));
            assert_eq!(columns, column(text));
        }
    }

    #[test]
    fn the_latest_senders_are_remembered_in_bounded_memory() {
        let senders = Senders::default();
        for service in 0..300 {
            let _ = read(&logs(&[service], 100), Some(&senders));
        }
        assert!(senders.0.lock().len() <= MAX_SENDERS && senders.bytes() <= MAX_BYTES, "{}", senders.bytes());
        let last = read(&logs(&[299], 100), Some(&senders));
        assert_eq!(address(&last), address(&read(&logs(&[299], 100), Some(&senders))));
        let huge = read(&logs(&[9_000], 200), Some(&senders));
        assert_ne!(address(&huge), address(&read(&logs(&[9_000], 200), Some(&senders))));
    }
}
