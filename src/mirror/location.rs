//! Where a mirror is, as the user writes it.

use std::path::{Path, PathBuf};

/// Why a text names no mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Nothing at all.
    #[error("a mirror's location is empty")]
    Empty,
    /// A URL of a kind that this version cannot reach.
    #[error("{location:?}: mirrors at {scheme}: URLs are not supported by this version; use a directory")]
    Scheme {
        /// The whole text.
        location: String,
        /// What stands before `://`.
        scheme: String,
    },
    /// A `file:` URL that names another host or no absolute path.
    #[error("{location:?}: a file URL is file:///absolute/path")]
    File {
        /// The whole text.
        location: String,
    },
}

/// Where a mirror is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory on this machine.
    Directory(PathBuf),
}

impl Location {
    /// Reads a location: a path, or `file:///absolute/path`.
    ///
    /// # Errors
    /// What it is instead.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(Self::Directory(text.into())) };
        if scheme != "file" {
            let (location, scheme) = (text.to_owned(), scheme.to_owned());
            return Err(LocationError::Scheme { location, scheme });
        }
        if Path::new(rest).is_absolute() {
            Ok(Self::Directory(rest.into()))
        } else {
            Err(LocationError::File { location: text.to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_file_urls_are_directories_and_the_rest_is_named() {
        for (text, path) in [("/srv/www", "/srv/www"), ("./x", "./x"), ("file:///srv/www", "/srv/www")] {
            assert_eq!(Location::parse(text), Ok(Location::Directory(path.into())));
        }
        assert_eq!(Location::parse(""), Err(LocationError::Empty));
        assert!(matches!(Location::parse("file://host/x"), Err(LocationError::File { .. })));
        assert!(
            matches!(Location::parse("gopher://h/x"), Err(LocationError::Scheme { scheme, .. }) if scheme == "gopher")
        );
    }
}
