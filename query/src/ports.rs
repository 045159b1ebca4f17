//! What the ports beside HTTP share: who may ask, how many connections there are, what was asked and how it ended, and
//! which relations there are to be listed.
//!
//! A port is a protocol and nothing else: it asks the same [`crate::ask::Ask`] as HTTP, so limits, coverage and errors
//! are those of the engine and are only told in another language.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use crate::ask::{Ask, AskError, Part, Question, Rows};
use crate::limits::Callers;
use access::Access;
use tally::{Protocol, Tally};

pub(crate) mod access;
pub(crate) mod relations;
pub(crate) mod tally;

/// How long accepting rests after the system had no connection to give.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What both ports work with.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) ask: Arc<dyn Ask>,
    pub(crate) access: Access,
    pub(crate) tally: Arc<Tally>,
    callers: Arc<Callers>,
}

impl Shared {
    pub(crate) fn new(ask: Arc<dyn Ask>, access: Access, callers: Arc<Callers>) -> Self {
        Self { ask, access, tally: Arc::default(), callers }
    }

    /// Asks when the caller has a place, which it keeps until the last row, and counts how the question ends.
    pub(crate) async fn stream(
        &self,
        protocol: Protocol,
        caller: Option<IpAddr>,
        question: Question,
    ) -> Result<Rows, AskError> {
        let asking = self.tally.asking(protocol);
        let opening = async {
            let place = match caller {
                Some(caller) => Some(self.callers.enter(caller).await?),
                None => None,
            };
            Ok((self.ask.stream(question).await?, place))
        };
        let (rows, place) = match opening.await {
            Ok(opened) => opened,
            Err(error) => {
                asking.failed(&error);
                return Err(error);
            }
        };
        let mut held = Some((asking, place));
        let parts = rows.parts.inspect(move |part| {
            let ended = match part {
                Ok(Part::Rows(_)) => return,
                Ok(Part::End(_)) => None,
                Err(error) => Some(error),
            };
            let Some((asking, _place)) = held.take() else { return };
            match ended {
                None => asking.answered(),
                Some(error) => asking.failed(error),
            }
        });
        Ok(Rows { schema: rows.schema, parts: parts.boxed() })
    }
}

#[cfg(test)]
pub(crate) mod tests;
