//! Exclusion rules: the patterns in the configuration and the `.headwaterignore` files in the tree,
//! both in `.gitignore` syntax.
//!
//! As in git, the deepest file with a matching pattern decides. The configuration takes precedence
//! over all files. An entry below an excluded directory cannot be re-included.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::error::ScanError;
/// The name of rules files.
pub(super) const RULES_FILE_NAME: &str = ".headwaterignore";

/// Maximum size of a rules file in bytes, far above that of any real one.
const MAX_RULES_FILE_BYTES: u64 = 1024 * 1024;

#[derive(Debug)]
struct DirectoryRules {
    depth: usize,
    /// Length of the directory's path below the root, including the trailing slash.
    prefix: usize,
    matcher: Gitignore,
}

/// The rules that apply at the current position of a walk.
#[derive(Debug)]
pub(super) struct ExcludeRules {
    exclude: Gitignore,
    levels: Vec<DirectoryRules>,
}

impl ExcludeRules {
    /// Creates rules from the configuration alone.
    pub(super) fn new(exclude: &[String]) -> Result<Self, ScanError> {
        let mut builder = GitignoreBuilder::new(".");
        for pattern in exclude {
            let wrong = |source| ScanError::Exclude { pattern: pattern.clone(), source };
            builder.add_line(None, pattern).map_err(wrong)?;
        }
        let wrong = |source| ScanError::Exclude { pattern: exclude.join(", "), source };
        Ok(Self { exclude: builder.build().map_err(wrong)?, levels: Vec::new() })
    }

    /// Adds the rules in `file`, from the directory at `relative` below the root. The root has
    /// depth 0.
    ///
    /// # Errors
    /// Fails if the file cannot be read or its content is invalid.
    pub(super) fn enter(
        &mut self,
        file: File,
        relative: &[u8],
        depth: usize,
    ) -> Result<(), RulesFault> {
        let mut bytes = Vec::new();
        // Reads up to the limit rather than trusting the size in the metadata, because the file may
        // grow.
        file.take(MAX_RULES_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(RulesFault::Io)?;
        if bytes.len() as u64 > MAX_RULES_FILE_BYTES {
            return Err(RulesFault::Content("is larger than 1 MiB".to_owned()));
        }
        let text =
            String::from_utf8(bytes).map_err(|_| RulesFault::Content("is not UTF-8".to_owned()))?;
        let mut builder = GitignoreBuilder::new(".");
        // A byte order mark would otherwise become part of the first pattern.
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if builder.add_line(None, line).is_err() {
                return Err(RulesFault::Content(format!(
                    "has an invalid pattern in line {}",
                    index + 1
                )));
            }
        }
        let too_much =
            |_| RulesFault::Content("has patterns that are too large in total".to_owned());
        let matcher = builder.build().map_err(too_much)?;
        if !matcher.is_empty() {
            let prefix = if relative.is_empty() { 0 } else { relative.len() + 1 };
            self.levels.push(DirectoryRules { depth, prefix, matcher });
        }
        Ok(())
    }

    /// Removes the rules of directories that do not contain the current entry, which is at `depth`.
    pub(super) fn leave(&mut self, depth: usize) {
        while self.levels.last().is_some_and(|level| level.depth >= depth) {
            self.levels.pop();
        }
    }

    /// Whether the entry at `relative`, below the root, is excluded.
    pub(super) fn is_excluded(&self, relative: &[u8], is_directory: bool) -> bool {
        let ask = |matcher: &Gitignore, prefix: usize| match matcher
            .matched(Path::new(OsStr::from_bytes(&relative[prefix..])), is_directory)
        {
            Match::None => None,
            Match::Ignore(_) => Some(true),
            Match::Whitelist(_) => Some(false),
        };
        ask(&self.exclude, 0)
            .or_else(|| {
                // The deepest directory comes last in the list and decides first.
                self.levels.iter().rev().find_map(|level| ask(&level.matcher, level.prefix))
            })
            .unwrap_or(false)
    }
}

/// Why a rules file cannot be used.
#[derive(Debug)]
pub(super) enum RulesFault {
    Io(io::Error),
    Content(String),
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    fn file(lines: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(lines.as_bytes()).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn deepest_ignore_file_decides_unless_the_configuration_does() {
        let mut rules = ExcludeRules::new(&["secret".to_owned(), "!build".to_owned()]).unwrap();
        rules.enter(file("*.log\n/top\nbuild/\n"), b"", 0).unwrap();
        assert!(
            rules.is_excluded(b"a.log", false)
                && rules.is_excluded(b"top", false)
                && rules.is_excluded(b"d/secret", true)
        );
        assert!(!rules.is_excluded(b"build", true), "the configuration brings it back");
        rules.enter(file("!keep.log\n"), b"d", 1).unwrap();
        assert!(!rules.is_excluded(b"d/keep.log", false) && !rules.is_excluded(b"d/top", false));
        assert!(rules.is_excluded(b"d/other.log", false));
        rules.leave(1);
        assert!(rules.is_excluded(b"e/keep.log", false));
    }

    #[test]
    fn invalid_pattern_is_named() {
        let wrong = ExcludeRules::new(&["ok".to_owned(), "[z-a]".to_owned()]).unwrap_err();
        assert!(matches!(wrong, ScanError::Exclude { pattern, .. } if pattern == "[z-a]"));
        let mut rules = ExcludeRules::new(&[]).unwrap();
        let fault = rules.enter(file("fine\n[z-a]\n"), b"", 0).unwrap_err();
        assert!(matches!(fault, RulesFault::Content(why) if why.ends_with("line 2")));
    }
}
