//! A metric's text. A metric may hold a hundred thousand points, so that of a large one they become objects one at a time,
//! and what there is of it at any moment is protobuf.

use std::fmt;

use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    Sum, Summary, SummaryDataPoint,
};
use prost::Message;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::wire::SMALL_BYTES;
use super::doubles::Doubles;
use super::protobuf::put;
use super::{object, remove_unread};

/// The member of each kind's data that holds its points, and its field.
const POINTS: (&str, u32) = ("dataPoints", 1);

/// Makes protobuf of a text, unless it would take more memory than any honest one.
type Encode = fn(&str) -> Result<Option<Vec<u8>>, String>;

/// A kind of data: its member, its field, itself without points, and a point.
struct Kind {
    member: &'static str,
    field: u32,
    data: Encode,
    point: Encode,
}

const KINDS: [Kind; 5] = [
    Kind { member: "gauge", field: 5, data: encoded::<Gauge>, point: encoded::<NumberDataPoint> },
    Kind { member: "sum", field: 7, data: encoded::<Sum>, point: encoded::<NumberDataPoint> },
    Kind { member: "histogram", field: 9, data: encoded::<Histogram>, point: encoded::<HistogramDataPoint> },
    Kind {
        member: "exponentialHistogram",
        field: 10,
        data: encoded::<ExponentialHistogram>,
        point: encoded::<ExponentialHistogramDataPoint>,
    },
    Kind { member: "summary", field: 11, data: encoded::<Summary>, point: encoded::<SummaryDataPoint> },
];

fn encoded<M: Message + DeserializeOwned>(text: &str) -> Result<Option<Vec<u8>>, String> {
    Ok(object::<M>(text)?.map(|message| message.encode_to_vec()))
}

/// A metric as protobuf.
pub(super) struct Encoded {
    pub(super) encoded: Vec<u8>,
    /// Points left out, since each would take more memory than any honest one.
    pub(super) outsized: usize,
}

/// A metric as protobuf; none if it would take more memory than any honest one even without its points.
pub(super) fn metric(text: &str) -> Result<Option<Encoded>, String> {
    if text.len() > SMALL_BYTES {
        return large(text);
    }
    Ok(small(text)?.map(|metric| Encoded { encoded: metric.encode_to_vec(), outsized: 0 }))
}

/// A metric as an object. The generated type takes data that it cannot read for none, so that nobody would hear of the
/// points: it is read the slower way, and refused if that helps nothing.
pub(super) fn small(text: &str) -> Result<Option<Metric>, String> {
    let Some(metric) = object::<Metric>(text)? else { return Ok(None) };
    if metric.data.is_some() {
        return Ok(Some(metric));
    }
    let mut value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    remove_unread(&mut value, false);
    let metric = Metric::deserialize(Doubles::of(&value)).map_err(|error| error.to_string())?;
    if metric.data.is_none() && KINDS.iter().any(|kind| value.get(kind.member).is_some()) {
        return Err(format!("the data of the metric {:?} cannot be read", metric.name));
    }
    Ok(Some(metric))
}

fn large(text: &str) -> Result<Option<Encoded>, String> {
    let (kinds, rest) = split(text, &KINDS.each_ref().map(|kind| kind.member))?;
    let Some(head) = object::<Metric>(&rest)? else { return Ok(None) };
    let mut metric = Encoded { encoded: head.encode_to_vec(), outsized: 0 };
    let Some((kind, text)) = KINDS.iter().zip(kinds).find_map(|(kind, text)| Some((kind, text?))) else {
        return Ok(Some(metric));
    };
    let unreadable = |error| format!("the data of the metric {:?} cannot be read: {error}", head.name);
    let ([points], rest) = split(text, &[POINTS.0]).map_err(unreadable)?;
    let mut data = Vec::new();
    if let Some(points) = points {
        each(points, &mut |point| {
            match (kind.point)(point)? {
                Some(point) => put(POINTS.1, &point, &mut data),
                None => metric.outsized += 1,
            }
            Ok(())
        })
        .map_err(unreadable)?;
    }
    let Some(rest) = (kind.data)(&rest).map_err(unreadable)? else { return Ok(None) };
    data.extend_from_slice(&rest);
    put(kind.field, &data, &mut metric.encoded);
    Ok(Some(metric))
}

/// An object's text taken apart: the texts of the members that are named, and the text of an object with the others.
/// What is null is absent.
fn split<'a, const N: usize>(text: &'a str, names: &[&str; N]) -> Result<([Option<&'a str>; N], String), String> {
    let mut parser = serde_json::Deserializer::from_str(text);
    parser.deserialize_map(Members(names)).map_err(|error| error.to_string())
}

struct Members<'n, const N: usize>(&'n [&'n str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = ([Option<&'de str>; N], String);

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let (mut taken, mut rest) = ([None; N], String::from("{"));
        while let Some((name, text)) = members.next_entry::<String, &RawValue>()? {
            let text = text.get();
            match self.0.iter().zip(&mut taken).find(|(wanted, _)| **wanted == name) {
                _ if text == "null" => {}
                Some((_, Some(_))) => return Err(A::Error::custom(format!("duplicate field `{name}`"))),
                Some((_, place)) => *place = Some(text),
                None => {
                    if rest.len() > 1 {
                        rest.push(',');
                    }
                    rest.push_str(&Value::String(name).to_string());
                    rest.push(':');
                    rest.push_str(text);
                }
            }
        }
        rest.push('}');
        Ok((taken, rest))
    }
}

/// Calls `on` with the text of each item of a list.
fn each(text: &str, on: &mut dyn FnMut(&str) -> Result<(), String>) -> Result<(), String> {
    let mut parser = serde_json::Deserializer::from_str(text);
    parser.deserialize_seq(Items(on)).map_err(|error| error.to_string())
}

struct Items<'f>(&'f mut dyn FnMut(&str) -> Result<(), String>);

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element::<&RawValue>()? {
            (self.0)(item.get()).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}
