//! A request in the form in which it is sent on. One that came so is sent as it came, byte for byte; the others are
//! written again, always into the same bytes, so that the other side knows a repetition by them.

use std::io::{Read, Write};

use bytes::Bytes;

use super::config::Compression;
use super::segment::{Coding, Request};
use crate::decode::{Encoding, protobuf_of_json};

/// Level of zstd: fast.
const ZSTD_LEVEL: i32 = 1;

/// A body as it is sent: protobuf in the wanted compression.
///
/// # Errors
/// When it is not what its receipt said; the text says why.
pub(super) fn body(request: &Request, wanted: Compression) -> Result<Bytes, String> {
    let as_wanted = matches!(
        (request.coding, wanted),
        (Coding::Identity, Compression::None) | (Coding::Gzip, Compression::Gzip) | (Coding::Zstd, Compression::Zstd)
    );
    if as_wanted && request.encoding == Encoding::Protobuf {
        return Ok(request.body.clone());
    }
    let plain = decompressed(request).map_err(|error| error.to_string())?;
    let protobuf = match request.encoding {
        Encoding::Protobuf => plain,
        Encoding::Json => Bytes::from(protobuf_of_json(request.signal, &plain)?),
    };
    compressed(protobuf, wanted).map_err(|error| error.to_string())
}

/// What was received had passed the limit of decompressed bytes, so none is needed here.
fn decompressed(request: &Request) -> std::io::Result<Bytes> {
    let mut plain = Vec::new();
    match request.coding {
        Coding::Identity => return Ok(request.body.clone()),
        Coding::Gzip => flate2::read::MultiGzDecoder::new(&request.body[..]).read_to_end(&mut plain)?,
        Coding::Zstd => zstd::stream::read::Decoder::with_buffer(&request.body[..])?.read_to_end(&mut plain)?,
    };
    Ok(Bytes::from(plain))
}

fn compressed(plain: Bytes, wanted: Compression) -> std::io::Result<Bytes> {
    Ok(match wanted {
        Compression::None => plain,
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&plain)?;
            Bytes::from(encoder.finish()?)
        }
        Compression::Zstd => Bytes::from(zstd::bulk::compress(&plain, ZSTD_LEVEL)?),
    })
}

#[cfg(test)]
mod tests {
    use lariat_schema::vocabulary::Signal;

    use super::*;

    fn request(encoding: Encoding, coding: Coding, body: Bytes) -> Request {
        Request { signal: Signal::Logs, encoding, coding, hops: 0, received_unix_nanos: 0, body }
    }

    #[test]
    fn every_form_becomes_the_same_protobuf_and_what_came_as_wanted_stays_as_it_is() {
        use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
        use prost::Message;
        let json = Bytes::from_static(
            br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"7","body":{"stringValue":"x"}}]}]}]}"#,
        );
        let parsed: ExportLogsServiceRequest = serde_json::from_slice(&json).unwrap();
        let protobuf = Bytes::from(parsed.encode_to_vec());
        for (encoding, plain) in [(Encoding::Json, &json), (Encoding::Protobuf, &protobuf)] {
            for (coding, how) in [
                (Coding::Identity, Compression::None),
                (Coding::Gzip, Compression::Gzip),
                (Coding::Zstd, Compression::Zstd),
            ] {
                let came = request(encoding, coding, compressed(plain.clone(), how).unwrap());
                for (wanted, back) in [
                    (Compression::None, Coding::Identity),
                    (Compression::Gzip, Coding::Gzip),
                    (Compression::Zstd, Coding::Zstd),
                ] {
                    let sent = body(&came, wanted).unwrap();
                    assert_eq!(sent, body(&came, wanted).unwrap());
                    if how == wanted && encoding == Encoding::Protobuf {
                        assert_eq!(sent, came.body);
                    }
                    assert_eq!(decompressed(&request(Encoding::Protobuf, back, sent)).unwrap(), protobuf);
                }
            }
        }
    }
}
