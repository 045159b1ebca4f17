//! What the ports beside HTTP share: who may ask, how many connections there are, what was asked and how it ended, and
//! which relations there are to be listed.
//!
//! A port is a protocol and nothing else: it asks the same [`crate::ask::Ask`] as HTTP, so limits, coverage and errors
//! are those of the engine and are only told in another language.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use crate::ask::{Answer, Ask, AskError, Question};
use crate::limits::{Callers, Place};
use access::Access;
use held::Room;
use tally::{Protocol, Tally};

pub(crate) mod access;
pub(crate) mod held;
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
    room: Room,
}

/// What an answer takes until its last row is read: its caller's place, and room.
#[derive(Debug)]
pub(crate) struct Held {
    _place: Option<Place>,
    _room: OwnedSemaphorePermit,
}

/// Why there is no answer to be read.
#[derive(Debug)]
pub(crate) enum Unasked {
    Failed(AskError),
    /// Answers that are not read yet leave no room for it.
    NoRoom,
}

impl From<AskError> for Unasked {
    fn from(error: AskError) -> Self {
        Self::Failed(error)
    }
}

impl Shared {
    pub(crate) fn new(ask: Arc<dyn Ask>, access: Access, callers: Arc<Callers>) -> Self {
        Self { ask, access, tally: Arc::default(), callers, room: Room::default() }
    }

    /// Asks when the caller has a place, and counts how it ends.
    pub(crate) async fn answer(
        &self,
        protocol: Protocol,
        caller: Option<IpAddr>,
        question: Question,
    ) -> Result<(Answer, Held), Unasked> {
        let asking = self.tally.asking(protocol);
        let answering = async {
            let place = match caller {
                Some(caller) => Some(self.callers.enter(caller).await?),
                None => None,
            };
            Ok((self.ask.ask(question).await?, place))
        };
        let answered = answering.await;
        asking.ended(&answered);
        let (answer, place) = answered?;
        match self.room.hold(&answer) {
            Some(room) => Ok((answer, Held { _place: place, _room: room })),
            None => {
                self.tally.turned(protocol, tally::Turned::NoRoom);
                Err(Unasked::NoRoom)
            }
        }
    }
}
