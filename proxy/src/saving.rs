//! What the calls of a profile share so that less is asked of its providers: the budget of hedges. One value per
//! profile, so that no profile spends what is another's; it outlives a reload of profiles.

use std::sync::Arc;

use lariat_schema::ids::ProfileName;

use crate::call::hedge::HedgeBudget;
use crate::profiles::{Catalog, Profile};

/// What one profile's calls share.
#[derive(Debug)]
pub(crate) struct ProfileSaving {
    slug: ProfileName,
    pub(crate) hedges: Arc<HedgeBudget>,
}

/// What all calls share, by the place of their profile in the catalog.
#[derive(Debug)]
pub(crate) struct Saving {
    profiles: Vec<ProfileSaving>,
}

impl Saving {
    pub(crate) fn new(catalog: &Catalog) -> Self {
        Self { profiles: catalog.profiles.iter().map(|profile| ProfileSaving::new(profile, None)).collect() }
    }

    /// The same for another catalog: profiles of the same name keep what they had.
    pub(crate) fn succeed(&self, catalog: &Catalog) -> Self {
        let before = |profile: &Profile| self.profiles.iter().find(|before| before.slug == profile.slug);
        let profiles = catalog.profiles.iter().map(|profile| ProfileSaving::new(profile, before(profile))).collect();
        Self { profiles }
    }

    pub(crate) fn profile(&self, at: usize) -> &ProfileSaving {
        &self.profiles[at]
    }
}

impl ProfileSaving {
    fn new(profile: &Profile, before: Option<&Self>) -> Self {
        let hedges = before.map(|before| before.hedges.clone()).unwrap_or_default();
        Self { slug: profile.slug.clone(), hedges }
    }
}
