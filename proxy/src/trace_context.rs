//! W3C Trace Context: what a client says of the trace that its call belongs to, which trace a call's spans therefore go
//! to, and what providers are told. Reading is lenient only as the recommendation is: a malformed `traceparent` is as
//! good as none, and a malformed `tracestate` leaves the parent valid. The SDK's propagator is not used: it works on a
//! context that is global to the thread, and takes a client's word for what is sampled.
//!
//! Nothing here decides whether a call is recorded; every call is.
//!
//! Sources: W3C Trace Context, level 2; OpenTelemetry, "TraceState: Probability Sampling".

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Length of a `traceparent` of version 00, and of what is read of a later one.
const PARENT_LENGTH: usize = 55;
/// Members of a `tracestate` at most; one with more is malformed.
const MAX_MEMBERS: usize = 32;
/// Bytes of a `tracestate` that are passed on; what every participant has to be able to carry.
const MAX_STATE_BYTES: usize = 512;
/// Members longer than this are the first to go where the whole is too long.
const LONG_MEMBER_BYTES: usize = 128;
/// The flags that are defined: sampled, random trace id. Others are not passed on.
const KNOWN_FLAGS: u8 = SAMPLED | RANDOM;
const SAMPLED: u8 = 0x01;
const RANDOM: u8 = 0x02;
/// The member of OpenTelemetry itself, which carries a sampling threshold and random bits.
const OPENTELEMETRY: &str = "ot";

/// A client's valid trace context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) trace_id: [u8; 16],
    /// The client's span.
    pub(crate) span_id: [u8; 8],
    pub(crate) flags: u8,
    /// Members in the client's order, valid and bounded; empty for none.
    state: Box<str>,
}

impl TraceContext {
    /// Reads a request's headers; none where they hold no valid parent.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
        let (trace_id, span_id, flags) = read_parent(parent.as_bytes())?;
        let lines: Option<Vec<&str>> =
            headers.get_all(TRACESTATE).iter().map(|line| std::str::from_utf8(line.as_bytes()).ok()).collect();
        let state = lines.and_then(|lines| read_state(&lines)).unwrap_or_default();
        Some(Self { trace_id, span_id, flags, state: state.into() })
    }

    /// The state for the record. A threshold and random bits are believed by the collector because they come from its
    /// own proxy, so that those of a client, who would thereby weigh its own calls, are left out.
    pub(crate) fn recorded_state(&self) -> String {
        let foreign = self.state.split(',').filter(|member| member.split('=').next() != Some(OPENTELEMETRY));
        foreign.collect::<Vec<_>>().join(",")
    }
}

/// Lower-case hexadecimal digits only.
fn hexadecimal<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let lower = text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

/// Trace id, span id and flags. A later version is read as far as version 00 goes.
fn read_parent(text: &[u8]) -> Option<([u8; 16], [u8; 8], u8)> {
    let text = text.trim_ascii();
    let (head, rest) = text.split_at_checked(PARENT_LENGTH)?;
    let [version] = hexadecimal(&head[..2])?;
    let dashes = [head[2], head[35], head[52]] == [b'-'; 3];
    let ends = if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|byte| *byte == b'-') };
    if version == 0xff || !dashes || !ends {
        return None;
    }
    let (trace_id, span_id) = (hexadecimal(&head[3..35])?, hexadecimal(&head[36..52])?);
    let [flags] = hexadecimal(&head[53..])?;
    (trace_id != [0; 16] && span_id != [0; 8]).then_some((trace_id, span_id, flags & KNOWN_FLAGS))
}

/// The members of all lines as one, the first of equal keys. None where any of them is malformed or they are too many.
fn read_state(lines: &[&str]) -> Option<String> {
    let mut members: Vec<(&str, &str)> = Vec::new();
    let written = lines.iter().flat_map(|line| line.split(',')).map(|member| member.trim_matches([' ', '\t']));
    for member in written.filter(|member| !member.is_empty()) {
        let (key, value) = member.split_once('=')?;
        if !is_key(key) || !is_value(value) || members.len() == MAX_MEMBERS {
            return None;
        }
        if members.iter().all(|(known, _)| *known != key) {
            members.push((key, member));
        }
    }
    Some(bounded(members.into_iter().map(|(_, member)| member).collect()))
}

/// Long members go first, then the last ones, until the rest is short enough.
fn bounded(mut members: Vec<&str>) -> String {
    let length = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>().saturating_sub(1);
    while length(&members) > MAX_STATE_BYTES {
        let _gone = match members.iter().rposition(|member| member.len() > LONG_MEMBER_BYTES) {
            Some(long) => members.remove(long),
            None => members.pop().unwrap_or_default(),
        };
    }
    members.join(",")
}

fn is_key(key: &str) -> bool {
    let begins = key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
    begins && key.len() <= 256 && key.bytes().all(known)
}

fn is_value(value: &str) -> bool {
    let known = |byte: u8| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=';
    !value.is_empty() && value.len() <= 256 && !value.ends_with(' ') && value.bytes().all(known)
}

/// The trace that a call's spans go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trace {
    /// One of our own, whose id is the request's; it points to the client's context if there was one.
    Begun { link: Option<Arc<TraceContext>> },
    /// The client's, where it is trusted.
    Continued(Arc<TraceContext>),
}

impl Default for Trace {
    fn default() -> Self {
        Self::Begun { link: None }
    }
}

impl Trace {
    /// The trace of a call whose client sent that context.
    pub(crate) fn of(context: Option<Arc<TraceContext>>, is_trusted: bool) -> Self {
        match context {
            Some(context) if is_trusted => Self::Continued(context),
            link => Self::Begun { link },
        }
    }

    /// Its id, where `own` is the one of a trace that begins here.
    pub(crate) fn id(&self, own: &[u8; 16]) -> [u8; 16] {
        match self {
            Self::Begun { .. } => *own,
            Self::Continued(context) => context.trace_id,
        }
    }

    /// Flags of its context. Our own ids are random in their last 56 bits, and everything of ours is sampled.
    pub(crate) fn flags(&self) -> u8 {
        match self {
            Self::Begun { .. } => SAMPLED | RANDOM,
            Self::Continued(context) => context.flags,
        }
    }

    /// What a provider is told, so that its spans become children of that span of ours.
    pub(crate) fn outgoing(&self, own: &[u8; 16], span_id: [u8; 8]) -> Option<Outgoing> {
        let (trace_id, span_id) = (hex::encode(self.id(own)), hex::encode(span_id));
        let parent = HeaderValue::try_from(format!("00-{trace_id}-{span_id}-{:02x}", self.flags())).ok()?;
        let state = match self {
            Self::Continued(context) if !context.state.is_empty() => HeaderValue::from_str(&context.state).ok(),
            _ => None,
        };
        Some(Outgoing { parent, state })
    }
}

/// The headers for one attempt.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    parent: HeaderValue,
    state: Option<HeaderValue>,
}

impl Outgoing {
    /// Puts them in, in place of any that are there.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        headers.remove(TRACESTATE);
        headers.insert(TRACEPARENT, self.parent);
        if let Some(state) = self.state {
            headers.insert(TRACESTATE, state);
        }
    }
}

#[cfg(test)]
mod tests;
