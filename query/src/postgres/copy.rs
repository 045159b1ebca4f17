//! Rows as `COPY` writes them: text, CSV or binary. Its values are those of a result, so they are made by the same code and
//! only put into another frame.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use pgwire::api::portal::Format;
use pgwire::api::results::FieldInfo;

use super::failure::Problem;
use super::rows::row;

/// What begins a binary copy: a signature, no flags, no extension.
const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What ends it.
const BINARY_TRAILER: &[u8] = &[0xff, 0xff];

/// A kind of copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Csv,
    Binary,
}

/// How rows are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) kind: Kind,
    header: bool,
    delimiter: u8,
    null: String,
}

impl Form {
    /// A form from its options, with the defaults of Postgres.
    pub(crate) fn new(
        kind: Kind,
        header: bool,
        delimiter: Option<&str>,
        null: Option<String>,
    ) -> Result<Self, Problem> {
        let (usual, usual_null) = if kind == Kind::Csv { (b',', "") } else { (b'\t', "\\N") };
        let delimiter = match delimiter.map(str::as_bytes) {
            None => usual,
            Some([one]) if one.is_ascii() && !one.is_ascii_alphanumeric() && !b"\n\r\\\".".contains(one) => *one,
            Some(_) => return Err(Problem::new("22023", "a delimiter is one character, and no letter or digit", None)),
        };
        Ok(Self { kind, header, delimiter, null: null.unwrap_or_else(|| usual_null.to_owned()) })
    }

    /// The format of values, and of the copy as a whole.
    pub(crate) fn format(&self) -> Format {
        if self.kind == Kind::Binary { Format::UnifiedBinary } else { Format::UnifiedText }
    }

    /// What comes before the rows.
    pub(crate) fn begin(&self, columns: &[FieldInfo]) -> Bytes {
        if self.kind == Kind::Binary {
            return Bytes::from_static(BINARY_HEADER);
        }
        let mut out = BytesMut::new();
        if self.header {
            self.line(columns.iter().map(|column| Some(column.name().as_bytes())), &mut out);
        }
        out.freeze()
    }

    /// What comes after them.
    pub(crate) fn end(&self) -> Bytes {
        Bytes::from_static(if self.kind == Kind::Binary { BINARY_TRAILER } else { b"" })
    }

    /// A row.
    pub(crate) fn row(&self, batch: &RecordBatch, number: usize, columns: &[FieldInfo]) -> Result<Bytes, ArrowError> {
        let values = row(batch, number, columns)?;
        let mut out = BytesMut::with_capacity(values.data.len() + columns.len() + 2);
        if self.kind == Kind::Binary {
            out.put_i16(values.field_count);
            out.put_slice(&values.data);
        } else {
            let mut rest = &values.data[..];
            let fields = columns.iter().map(|_| match usize::try_from(rest.get_i32()) {
                Ok(length) => {
                    let (value, after) = rest.split_at(length);
                    rest = after;
                    Some(value)
                }
                Err(_) => None,
            });
            self.line(fields, &mut out);
        }
        Ok(out.freeze())
    }

    fn line<'a>(&self, values: impl Iterator<Item = Option<&'a [u8]>>, out: &mut BytesMut) {
        for (index, value) in values.enumerate() {
            if index > 0 {
                out.put_u8(self.delimiter);
            }
            match value {
                None => out.put_slice(self.null.as_bytes()),
                Some(value) if self.kind == Kind::Csv => self.csv(value, out),
                Some(value) => self.text(value, out),
            }
        }
        out.put_u8(b'\n');
    }

    /// A value in quotes where it could be taken for something else.
    fn csv(&self, value: &[u8], out: &mut BytesMut) {
        let special = |byte: &u8| *byte == self.delimiter || b"\"\n\r".contains(byte);
        if !value.iter().any(special) && value != self.null.as_bytes() && value != b"\\." {
            return out.put_slice(value);
        }
        out.put_u8(b'"');
        for byte in value {
            if *byte == b'"' {
                out.put_u8(b'"');
            }
            out.put_u8(*byte);
        }
        out.put_u8(b'"');
    }

    /// A value with its special characters behind a backslash.
    fn text(&self, value: &[u8], out: &mut BytesMut) {
        for byte in value {
            match byte {
                b'\n' => out.put_slice(b"\\n"),
                b'\r' => out.put_slice(b"\\r"),
                b'\t' => out.put_slice(b"\\t"),
                b'\\' => out.put_slice(b"\\\\"),
                byte if *byte == self.delimiter => out.put_slice(&[b'\\', *byte]),
                byte => out.put_u8(*byte),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;
    use crate::postgres::rows::columns;

    fn written(form: &Form) -> Vec<u8> {
        let texts = StringArray::from(vec![Some("plain"), Some("a,\"b\"\n\tc\\"), None, Some("")]);
        let numbers = Int64Array::from(vec![1, 2, 3, 4]);
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("text", Arc::new(texts) as _, true),
            ("n", Arc::new(numbers) as _, true),
        ])
        .unwrap();
        let columns = columns(&batch.schema(), &form.format()).unwrap();
        let rows = (0..4).map(|number| form.row(&batch, number, &columns).unwrap());
        [form.begin(&columns)].into_iter().chain(rows).chain([form.end()]).flatten().collect()
    }

    #[test]
    fn text_and_csv_are_written_as_postgres_writes_them() {
        let text = Form::new(Kind::Text, false, None, None).unwrap();
        let expected = "plain\t1\na,\"b\"\\n\\tc\\\\\t2\n\\N\t3\n\t4\n";
        assert_eq!(String::from_utf8(written(&text)).unwrap(), expected);
        let csv = Form::new(Kind::Csv, true, None, None).unwrap();
        let expected = "text,n\nplain,1\n\"a,\"\"b\"\"\n\tc\\\",2\n,3\n\"\",4\n";
        assert_eq!(String::from_utf8(written(&csv)).unwrap(), expected);
        let other = Form::new(Kind::Csv, false, Some(";"), Some("plain".to_owned())).unwrap();
        assert!(written(&other).starts_with(b"\"plain\";1\n"));
    }

    #[test]
    fn binary_has_its_header_its_counts_and_its_trailer() {
        let bytes = written(&Form::new(Kind::Binary, false, None, None).unwrap());
        let first = [&[0, 2, 0, 0, 0, 5][..], b"plain", &[0, 0, 0, 8], &1_i64.to_be_bytes()].concat();
        assert!(bytes.starts_with(&[BINARY_HEADER, &first].concat()) && bytes.ends_with(&[4, 0xff, 0xff]));
        assert_eq!(BINARY_HEADER.len(), 19);
    }

    #[test]
    fn delimiters_that_values_could_hold_as_letters_are_refused() {
        for wrong in ["", "ab", "a", "\n", "\\", "é"] {
            assert!(Form::new(Kind::Text, false, Some(wrong), None).is_err(), "{wrong:?}");
        }
    }
}
