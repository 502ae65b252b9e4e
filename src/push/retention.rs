//! How long a path is still served after it was removed from the tree.
//!
//! A cached page still requests the assets from its own build, but a removed page should disappear.
//! So by default, pages and data are removed immediately, and everything else is served for another
//! day.

use std::time::Duration;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::origin::scratch::ManifestFile;
use crate::push::PushError;
use crate::tree_path::TreePath;

const DEFAULT_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
const PAGE_EXTENSIONS: [&str; 5] = ["html", "htm", "xml", "json", "txt"];

/// A rule that sets the retention of paths that match a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionRule {
    /// A pattern in gitignore syntax.
    pub pattern: String,
    /// How long these paths are still served after their removal.
    pub keep: Duration,
}

/// How long removed paths are still served.
#[derive(Debug, Clone, Default)]
pub struct Retention {
    rules: Vec<(Gitignore, Duration)>,
    expunged: Vec<TreePath>,
}

impl Retention {
    /// Creates a retention from rules. The first matching rule applies; if none matches, the
    /// default applies. Paths in and below `expunged` are not retained.
    ///
    /// # Errors
    /// If a pattern is invalid, with the reason.
    pub fn new(rules: &[RetentionRule], expunged: Vec<TreePath>) -> Result<Self, String> {
        let compile = |rule: &RetentionRule| {
            let mut builder = GitignoreBuilder::new("");
            builder
                .add_line(None, &rule.pattern)
                .map_err(|error| format!("{:?}: {error}", rule.pattern))?;
            let pattern =
                builder.build().map_err(|error| format!("{:?}: {error}", rule.pattern))?;
            Ok((pattern, rule.keep))
        };
        Ok(Self { rules: rules.iter().map(compile).collect::<Result<_, String>>()?, expunged })
    }

    /// How long `path` is still served after its removal.
    #[must_use]
    pub fn duration_for(&self, path: &TreePath) -> Duration {
        if self.is_expunged(path) {
            return Duration::ZERO;
        }
        let matches = |rule: &&(Gitignore, Duration)| {
            // Includes parent directories, so that a rule for a directory, such as `/private/`,
            // applies to all files in it.
            rule.0.matched_path_or_any_parents(path.as_str(), false).is_ignore()
        };
        match self.rules.iter().find(matches) {
            Some((_, keep)) => *keep,
            None => match path.extension() {
                None => Duration::ZERO,
                Some(page)
                    if PAGE_EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(page)) =>
                {
                    Duration::ZERO
                }
                Some(_) => DEFAULT_RETENTION,
            },
        }
    }

    /// Whether any paths are expunged.
    #[must_use]
    pub const fn has_expunged(&self) -> bool {
        !self.expunged.is_empty()
    }

    /// Whether `path` is expunged. At an expunged path, even an entry that was retired earlier is
    /// dropped.
    #[must_use]
    pub fn is_expunged(&self, path: &TreePath) -> bool {
        self.expunged.iter().any(|expunged| path.is_within(expunged.as_str()))
    }

    /// Whether `manifest` has a retired entry at an expunged path.
    pub(super) fn is_expunged_in(&self, manifest: &ManifestFile) -> Result<bool, PushError> {
        for entry in manifest.entries().map_err(PushError::NewManifest)? {
            let entry = entry.map_err(PushError::NewManifest)?;
            if !entry.is_live() && self.is_expunged(&entry.path) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    #[test]
    fn default_rules_drop_pages_and_keep_assets_a_day() {
        let retention = Retention::default();
        for gone in [
            "index.html",
            "a/B.HTM",
            "feed.xml",
            "x.json",
            "robots.txt",
            "LICENSE",
            "a/.well-known",
        ] {
            assert_eq!(retention.duration_for(&path(gone)), Duration::ZERO, "{gone}");
        }
        for kept in ["a/app.3fa9.js", "logo.svg", "font.woff2"] {
            assert_eq!(retention.duration_for(&path(kept)), DEFAULT_RETENTION, "{kept}");
        }
    }

    #[test]
    fn first_matching_rule_applies_and_expunged_paths_go_at_once() {
        let rule = |pattern: &str, seconds| RetentionRule {
            pattern: pattern.into(),
            keep: Duration::from_secs(seconds),
        };
        let rules = [rule("/assets/old/", 5), rule("*.js", 9)];
        let retention = Retention::new(&rules, vec![path("assets/secret")]).unwrap();
        let seconds = |text| retention.duration_for(&path(text)).as_secs();
        assert_eq!(seconds("assets/old/x.js"), 5);
        assert_eq!(seconds("b/x.js"), 9);
        assert_eq!(seconds("assets/secret/x.js"), 0);
        assert_eq!(seconds("assets/secrets.js"), 9);
        let all = Retention::new(&[rule("*", 1)], vec![]).unwrap();
        assert_eq!(all.duration_for(&path("a/index.html")).as_secs(), 1);
    }

    #[test]
    fn invalid_pattern_is_named() {
        let rules = [RetentionRule { pattern: "[z-a]".into(), keep: DEFAULT_RETENTION }];
        assert!(Retention::new(&rules, vec![]).unwrap_err().contains("[z-a]"));
    }
}
