//! Validated names: paths inside a content tree, symlink targets and sites.
//!
//! A value of one of these types can be used below a root without further checks. This module never
//! accesses a disk.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization as _;

/// Maximum length of a component in bytes: the limit of ext4, XFS, btrfs and APFS.
pub const MAX_COMPONENT_BYTES: usize = 255;
/// Maximum length of a path in bytes.
pub const MAX_PATH_BYTES: usize = 1024;
/// Maximum length of a site name in bytes.
pub const MAX_SITE_BYTES: usize = 64;

/// Why a string is not a valid path, target or name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// The string is empty.
    #[error("is empty")]
    Empty,
    /// The string begins with `/`.
    #[error("is absolute")]
    Absolute,
    /// The string contains `//` or ends in `/`.
    #[error("has an empty component")]
    EmptyComponent,
    /// The string contains a component `.` or `..` where it is not allowed.
    #[error("has a component '.' or '..'")]
    DotComponent,
    /// The string contains a control character.
    #[error("has a control character")]
    ControlCharacter,
    /// The string contains a backslash, which some clients and servers treat as a separator.
    #[error("has a backslash")]
    Backslash,
    /// The string contains a component longer than [`MAX_COMPONENT_BYTES`].
    #[error("has a component over 255 bytes")]
    LongComponent,
    /// The string is longer than [`MAX_PATH_BYTES`].
    #[error("is over 1,024 bytes")]
    TooLong,
    /// The string is not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// A symlink target that leads out of the tree.
    #[error("leads out of the tree")]
    Escapes,
    /// A symlink target with `..` after a name. If that name is another link, the target may lead
    /// out.
    #[error("has '..' after a name, which may lead out through another link")]
    DotDotAfterName,
    /// A site name is too long, contains characters other than `a-z 0-9 - _ .`, or begins with `.`,
    /// `-` or `_`.
    #[error(
        "must consist of a-z, 0-9, '-', '_' and '.', begin with a letter or digit, and have at \
         most 64 bytes"
    )]
    Site,
}

fn check_component(component: &str) -> Result<(), PathFault> {
    match component {
        "" => Err(PathFault::EmptyComponent),
        "." | ".." => Err(PathFault::DotComponent),
        long if long.len() > MAX_COMPONENT_BYTES => Err(PathFault::LongComponent),
        _ => Ok(()),
    }
}

fn check_whole(text: &str) -> Result<(), PathFault> {
    if text.is_empty() {
        return Err(PathFault::Empty);
    }
    if text.len() > MAX_PATH_BYTES {
        return Err(PathFault::TooLong);
    }
    if text.starts_with('/') {
        return Err(PathFault::Absolute);
    }
    // One pass without branches, because nearly all paths are valid.
    let is_odd = |byte: u8| byte == b'\\' || byte < 0x20 || byte == 0x7f;
    if text.bytes().fold(false, |odd, byte| odd | is_odd(byte)) {
        let first = text.bytes().find(|byte| is_odd(*byte));
        return Err(if first == Some(b'\\') {
            PathFault::Backslash
        } else {
            PathFault::ControlCharacter
        });
    }
    // C1 controls also affect terminals. In UTF-8, each is two bytes, the first of which is 0xc2.
    if !text.is_ascii() && text.chars().any(char::is_control) {
        return Err(PathFault::ControlCharacter);
    }
    Ok(())
}

/// A path inside a content tree. It is UTF-8 and relative, with `/` between components. No
/// component is empty, `.` or `..`; each has at most 255 bytes, and the path at most 1,024. It
/// contains no control characters or backslashes. Paths are ordered by bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TreePath(Box<str>);

impl TreePath {
    /// Checks `text` and makes it a path.
    ///
    /// # Errors
    /// The first rule that `text` breaks.
    pub fn new(text: &str) -> Result<Self, PathFault> {
        check_whole(text)?;
        text.split('/').try_for_each(check_component)?;
        Ok(Self(text.into()))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// All but the last component; `None` for a path in the root.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// The part of the name after its last dot. `None` if there is no dot, or if that dot is the
    /// first or last character.
    #[must_use]
    pub fn extension(&self) -> Option<&str> {
        match self.name().rsplit_once('.') {
            Some((stem, extension)) if !stem.is_empty() && !extension.is_empty() => Some(extension),
            _ => None,
        }
    }

    /// Whether the path is `directory` itself or lies below it.
    #[must_use]
    pub fn is_within(&self, directory: &str) -> bool {
        self.0.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The path, folded so that paths that differ only in case or Unicode normalization become
    /// equal.
    #[must_use]
    pub fn folded(&self) -> String {
        if self.0.is_ascii() {
            self.0.to_ascii_lowercase()
        } else {
            self.0.nfc().flat_map(char::to_lowercase).nfc().collect()
        }
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Borrow<str> for TreePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for TreePath {
    type Err = PathFault;

    fn from_str(text: &str) -> Result<Self, PathFault> {
        Self::new(text)
    }
}

impl TryFrom<String> for TreePath {
    type Error = PathFault;

    fn try_from(text: String) -> Result<Self, PathFault> {
        Self::new(&text)
    }
}

impl From<TreePath> for String {
    fn from(path: TreePath) -> Self {
        path.0.into()
    }
}

/// The target of a symlink in a tree: a relative path with `..` only at its start.
///
/// Whether the target stays inside the tree depends on where the link is: see
/// [`LinkTarget::check_at`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkTarget(Box<str>);

impl LinkTarget {
    /// Checks `text` and makes it a target.
    ///
    /// # Errors
    /// The first rule that `text` breaks.
    pub fn new(text: &str) -> Result<Self, PathFault> {
        check_whole(text)?;
        let mut after_name = false;
        for component in text.split('/') {
            match component {
                ".." if after_name => return Err(PathFault::DotDotAfterName),
                ".." => {}
                "." if text == "." => {}
                name => {
                    check_component(name)?;
                    after_name = true;
                }
            }
        }
        Ok(Self(text.into()))
    }

    /// The target as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Refuses a target that leads out of the tree from a link at `path`.
    ///
    /// # Errors
    /// [`PathFault::Escapes`].
    pub fn check_at(&self, path: &TreePath) -> Result<(), PathFault> {
        self.destination(path).map(|_| ()).ok_or(PathFault::Escapes)
    }

    /// The destination of a link at `path`, relative to the root of the tree; empty for the root
    /// itself. Other links are not followed. `None` if the destination is outside the tree.
    #[must_use]
    pub fn destination(&self, path: &TreePath) -> Option<String> {
        let mut place: Vec<&str> = path.as_str().split('/').collect();
        place.pop();
        for component in self.0.split('/') {
            match component {
                "." => {}
                ".." => {
                    place.pop()?;
                }
                name => place.push(name),
            }
        }
        Some(place.join("/"))
    }
}

impl fmt::Display for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for LinkTarget {
    type Error = PathFault;

    fn try_from(text: String) -> Result<Self, PathFault> {
        Self::new(&text)
    }
}

impl From<LinkTarget> for String {
    fn from(target: LinkTarget) -> Self {
        target.0.into()
    }
}

/// The name of a site. A release and a mirror must have the same site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Site(Box<str>);

impl Site {
    /// Checks `text` and makes it a site.
    ///
    /// # Errors
    /// [`PathFault::Site`].
    pub fn new(text: &str) -> Result<Self, PathFault> {
        let fits =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        let starts_well = text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
        if !starts_well || text.len() > MAX_SITE_BYTES || !text.bytes().all(fits) {
            return Err(PathFault::Site);
        }
        Ok(Self(text.into()))
    }

    /// The site as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Site {
    /// The default site: `default`.
    fn default() -> Self {
        Self("default".into())
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Site {
    type Err = PathFault;

    fn from_str(text: &str) -> Result<Self, PathFault> {
        Self::new(text)
    }
}

impl TryFrom<String> for Site {
    type Error = PathFault;

    fn try_from(text: String) -> Result<Self, PathFault> {
        Self::new(&text)
    }
}

impl From<Site> for String {
    fn from(site: Site) -> Self {
        site.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_paths_are_accepted_unchanged() {
        for good in [
            "a",
            "a/b",
            "..a",
            "a..",
            "...",
            "é/ü.html",
            "a b",
            "a\"b",
            "x/.well-known/y",
            &"c".repeat(255),
        ] {
            assert_eq!(TreePath::new(good).map(String::from), Ok(good.to_owned()));
        }
    }

    #[test]
    fn each_rule_refuses_invalid_paths() {
        let long = format!("{}/x", "c".repeat(256));
        let longer = vec!["abcdefg"; 129].join("/");
        for (bad, fault) in [
            ("", PathFault::Empty),
            ("/a", PathFault::Absolute),
            ("a//b", PathFault::EmptyComponent),
            ("a/", PathFault::EmptyComponent),
            (".", PathFault::DotComponent),
            ("a/../b", PathFault::DotComponent),
            ("a\nb", PathFault::ControlCharacter),
            ("a\u{7f}", PathFault::ControlCharacter),
            ("a\u{9b}31m", PathFault::ControlCharacter),
            ("a\\b", PathFault::Backslash),
            (&long, PathFault::LongComponent),
            (&longer, PathFault::TooLong),
        ] {
            assert_eq!(TreePath::new(bad), Err(fault), "{bad:?}");
        }
    }

    #[test]
    fn link_targets_stay_inside_or_are_refused() {
        let link = TreePath::new("docs/latest").unwrap();
        let at = |target: &str| {
            LinkTarget::new(target).and_then(|target| target.check_at(&link).map(|()| target))
        };
        for good in ["v1", "../docs/v1", "../x", "v1/sub", ".."] {
            assert!(at(good).is_ok(), "{good}");
        }
        assert_eq!(at("../../x"), Err(PathFault::Escapes));
        assert_eq!(at("x/up/../f"), Err(PathFault::DotDotAfterName));
        assert_eq!(at("/etc"), Err(PathFault::Absolute));
        assert_eq!(at("../x").unwrap().destination(&link).as_deref(), Some("x"));
        assert_eq!(at("..").unwrap().destination(&link).as_deref(), Some(""));
    }

    #[test]
    fn folding_ignores_case_and_normal_form() {
        let fold = |text: &str| TreePath::new(text).unwrap().folded();
        assert_eq!(fold("A/É"), fold("a/e\u{301}"));
        assert_ne!(fold("a"), fold("b"));
    }

    #[test]
    fn site_names_are_plain_words() {
        for good in ["default", "docs.example", "a-b_c9", "9"] {
            assert!(Site::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "A", "a/b", "a b", &"a".repeat(65)] {
            assert_eq!(Site::new(bad), Err(PathFault::Site), "{bad}");
        }
    }

    #[test]
    fn extension_needs_a_stem() {
        let extension = |text: &str| TreePath::new(text).unwrap().extension().map(str::to_owned);
        assert_eq!(extension("a/b.tar.gz").as_deref(), Some("gz"));
        assert_eq!(extension("a.b/c"), None);
        assert_eq!(extension(".htaccess"), None);
    }
}
