//! Which request ids a file has, as far as two ids can say it: a proxy's begin with their time, so that those of an hour
//! lie close together, and a question for one of another hour need not open the file. Bloom filters tell it of any id, and
//! each costs a read of the file.

use lariat_schema::ids::RequestId;
use serde::{Deserialize, Serialize};

/// The request ids of some rows; a row without one has none to be found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestIds {
    /// No row has one.
    #[default]
    None,
    /// None is less than the one or greater than the other.
    Within {
        /// The least.
        least: RequestId,
        /// The greatest.
        greatest: RequestId,
    },
}

impl RequestIds {
    /// These and one more.
    #[must_use]
    pub fn and(self, id: RequestId) -> Self {
        match self {
            Self::None => Self::Within { least: id, greatest: id },
            Self::Within { least, greatest } => Self::Within { least: least.min(id), greatest: greatest.max(id) },
        }
    }

    /// False if this one is surely not among them.
    #[must_use]
    pub fn may_have(self, id: RequestId) -> bool {
        match self {
            Self::None => false,
            Self::Within { least, greatest } => (least..=greatest).contains(&id),
        }
    }
}
