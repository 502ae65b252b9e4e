//! Detects files that are not meant for visitors: files with secrets, and files left behind by
//! editors and operating systems.
//!
//! Pure: judges by paths. The scan detects private keys by content. The lists are documented in
//! docs/configuration.md, "Secrets". Names are compared case-insensitively.

use std::collections::BTreeMap;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::tree_path::TreePath;

/// Names of files and directories with secrets.
const SECRET_NAMES: [&str; 27] = [
    ".git",
    ".svn",
    ".hg",
    ".env",
    ".aws",
    ".ssh",
    ".gnupg",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ecdsa_sk",
    "id_ed25519",
    "id_ed25519_sk",
    ".htpasswd",
    ".netrc",
    "_netrc",
    ".git-credentials",
    ".npmrc",
    ".pypirc",
    ".pgpass",
    ".my.cnf",
    ".dockercfg",
    ".vault-token",
    "server.key",
    "private.key",
    "privkey.pem",
    // A mirror's internal directory, in case someone pushes a mirror as a tree.
    ".headwater",
];

/// Extensions of files with secrets.
const SECRET_EXTENSIONS: [&str; 7] = [".kdbx", ".kdb", ".p12", ".pfx", ".jks", ".keystore", ".ppk"];

/// Paths of files with secrets, relative to any directory.
const SECRET_FILES: [&str; 2] = [".docker/config.json", ".kube/config"];

/// Suffixes of `.env` files without secrets, which only show the names of variables.
const ENV_EXAMPLES: [&str; 4] = ["example", "sample", "template", "dist"];

/// Whether a file probably contains secrets, judging by its path.
pub(super) fn is_secret(path: &TreePath) -> bool {
    let path = path.as_str().to_ascii_lowercase();
    let has_name = |component: &str| {
        SECRET_NAMES.contains(&component)
            || component.strip_prefix(".env.").is_some_and(|rest| !ENV_EXAMPLES.contains(&rest))
    };
    let is_file = |file: &&str| {
        path.strip_suffix(*file).is_some_and(|before| before.is_empty() || before.ends_with('/'))
    };
    // Directories count too: nothing below `.git` or `.ssh` is for visitors.
    path.split('/').any(has_name)
        || SECRET_EXTENSIONS.iter().any(|ending| path.ends_with(ending))
        || SECRET_FILES.iter().any(is_file)
}

/// The exclude pattern for a path that editors, operating systems or package managers leave behind;
/// `None` for other paths.
fn clutter_pattern(path: &TreePath) -> Option<&'static str> {
    path.as_str().split('/').find_map(|component| match component {
        ".DS_Store" => Some(".DS_Store"),
        "node_modules" => Some("node_modules/"),
        name if name.eq_ignore_ascii_case("thumbs.db") => Some("Thumbs.db"),
        name if name.len() > 1 && name.ends_with('~') => Some("*~"),
        name if name.starts_with('.') && name.ends_with(".swp") => Some(".*.swp"),
        _ => None,
    })
}

/// A one-line warning about files that are probably not meant for visitors; `None` if there are
/// none.
pub(super) fn clutter_warning<'p>(live: impl Iterator<Item = &'p TreePath>) -> Option<String> {
    let mut found: BTreeMap<&str, (u64, &TreePath)> = BTreeMap::new();
    for path in live {
        if let Some(pattern) = clutter_pattern(path) {
            found.entry(pattern).or_insert((0, path)).0 += 1;
        }
    }
    let files: u64 = found.values().map(|(count, _)| count).sum();
    let first = found.values().map(|(_, path)| path).min()?;
    let patterns: Vec<String> = found.keys().map(|pattern| format!("{pattern:?}")).collect();
    let (are, rest) = match files {
        1 => ("1 file is", String::new()),
        _ => (&*format!("{files} files are"), " and others".to_owned()),
    };
    Some(format!(
        "{are} most likely not meant for visitors ({first}{rest}): `exclude = [{}]` in \
         headwater.toml leaves them out",
        patterns.join(", ")
    ))
}

/// The paths that a user wants to publish even if they look like secrets.
#[derive(Debug, Clone, Default)]
pub struct AllowedSecrets(Option<Gitignore>);

impl AllowedSecrets {
    /// Parses lines in gitignore syntax.
    ///
    /// # Errors
    /// If a line is not a valid pattern, with the reason.
    pub fn new(patterns: &[String]) -> Result<Self, String> {
        if patterns.is_empty() {
            return Ok(Self(None));
        }
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            builder.add_line(None, pattern).map_err(|error| format!("{pattern:?}: {error}"))?;
        }
        builder.build().map(|patterns| Self(Some(patterns))).map_err(|error| error.to_string())
    }

    pub(super) fn allows(&self, path: &TreePath) -> bool {
        self.0.as_ref().is_some_and(|patterns| {
            patterns.matched_path_or_any_parents(path.as_str(), false).is_ignore()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    #[test]
    fn secret_names_are_detected_in_any_case() {
        for secret in [
            ".git/config",
            "a/.GIT/HEAD",
            "a/.Env",
            "b/.env.local",
            "x/id_rsa",
            "server.key",
            "tls/Server.Key",
            ".git-credentials",
            ".npmrc",
            ".pypirc",
            "a/passwords.KDBX",
            ".docker/config.json",
            "a/.docker/config.json",
        ] {
            assert!(is_secret(&path(secret)), "{secret}");
        }
        for public in [
            ".gitignore",
            "environment",
            ".env.example",
            "a/.ENV.sample",
            ".env.template",
            ".env.dist",
            "docker/config.json",
            "x.docker/config.json",
            "slides.key",
            "keys.html",
        ] {
            assert!(!is_secret(&path(public)), "{public}");
        }
    }

    #[test]
    fn clutter_is_one_line_with_the_exclude_setting() {
        let paths =
            ["a/.DS_Store", "b/.DS_Store", "index.html", "index.html~", "node_modules/x/y.js", "~"]
                .map(path);
        let warning = clutter_warning(paths.iter()).unwrap();
        assert!(warning.contains(r#"exclude = ["*~", ".DS_Store", "node_modules/"]"#), "{warning}");
        assert!(
            warning.starts_with("4 files are") && warning.contains("a/.DS_Store and others"),
            "{warning}"
        );
        assert_eq!(clutter_warning([path("index.html"), path("Thumbs.txt")].iter()), None);
    }

    #[test]
    fn allowed_secrets_are_paths_or_patterns() {
        let allowed =
            AllowedSecrets::new(&["/demo/server.key".into(), "*.p12".into(), "fixtures/".into()])
                .unwrap();
        for text in ["demo/server.key", "a/b.p12", "x/fixtures/id_rsa"] {
            assert!(allowed.allows(&path(text)), "{text}");
        }
        assert!(
            !allowed.allows(&path("a/demo/server.key"))
                && !AllowedSecrets::default().allows(&path("a.p12"))
        );
        assert!(AllowedSecrets::new(&["{".into()]).is_err());
    }
}
