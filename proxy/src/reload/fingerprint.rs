//! Whether the files of a folder are other ones than before, without reading them: names, where each leads, sizes and
//! times. Polling is chosen over the system's notifications: those miss network mounts, and a Kubernetes volume changes
//! its files by turning one symbolic link, which only shows in where each file leads.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::profiles;

/// The look of a folder of profiles, and of the file of authorities.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Fingerprint(Vec<File>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct File {
    path: PathBuf,
    leads_to: Option<PathBuf>,
    size: Option<u64>,
    changed: Option<SystemTime>,
}

impl Fingerprint {
    /// That of a folder and one more file now; a folder that cannot be read looks empty.
    pub(crate) fn of(dir: &Path, beside: Option<&Path>) -> Self {
        let files = profiles::files(dir).unwrap_or_default().into_iter().chain(beside.map(Path::to_owned));
        Self(
            files
                .map(|path| {
                    let metadata = std::fs::metadata(&path).ok();
                    File {
                        leads_to: std::fs::canonicalize(&path).ok(),
                        size: metadata.as_ref().map(std::fs::Metadata::len),
                        changed: metadata.and_then(|metadata| metadata.modified().ok()),
                        path,
                    }
                })
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_content_another_file_and_a_turned_link_look_different_and_what_is_no_profile_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for generation in ["..1", "..2"] {
            std::fs::create_dir(at(generation)).unwrap();
            std::fs::write(at(generation).join("a.yml"), "same").unwrap();
        }
        std::os::unix::fs::symlink("..1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/a.yml", at("a.yml")).unwrap();
        let mut before = Fingerprint::of(dir.path(), None);
        let mut differs = |what: &str, expected: bool| {
            let now = Fingerprint::of(dir.path(), None);
            assert_eq!(now != before, expected, "{what}");
            before = now;
        };
        differs("nothing", false);
        std::fs::write(at("readme.md"), "x").unwrap();
        differs("a file that is no profile", false);
        std::os::unix::fs::symlink("..2", at("..new")).unwrap();
        std::fs::rename(at("..new"), at("..data")).unwrap();
        differs("a turned link", true);
        std::fs::write(at("b.yml"), "x").unwrap();
        differs("a new file", true);
        std::fs::write(at("b.yml"), "xy").unwrap();
        differs("another size", true);
        std::fs::remove_file(at("b.yml")).unwrap();
        differs("a file that is gone", true);
    }
}
