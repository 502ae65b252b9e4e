//! Guard rails: what is more likely a broken build than a wish.

use crate::tree_path::TreePath;

/// How many paths may go at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxRemoved {
    /// So many.
    Paths(u64),
    /// This part of all, between 0 and 1, and never refused below 100 paths.
    Part(f64),
}

impl Default for MaxRemoved {
    fn default() -> Self {
        Self::Part(0.5)
    }
}

/// Fewer paths than this go without a question when the limit is a part.
const SMALL: u64 = 100;

/// Names that no website shows on purpose.
const SECRETS: [&str; 13] = [
    ".git",
    ".env",
    ".svn",
    ".hg",
    ".aws",
    ".ssh",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    ".htpasswd",
    ".netrc",
    // The inside of a mirror that was taken for a tree.
    ".headwater",
];

/// What is refused.
#[derive(Debug, Clone, Default)]
pub struct Guards {
    /// Paths that must be there.
    pub must_have: Vec<TreePath>,
    /// Paths that are to be served no more, not even for those who have seen them.
    pub expunged: Vec<TreePath>,
    /// How many paths may go.
    pub max_removed: MaxRemoved,
    /// Let any number of paths go, and an empty tree pass.
    pub allow_shrink: bool,
    /// Let names like `.env` pass.
    pub allow_secrets: bool,
}

/// What a guard rail refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardFault {
    /// Nothing to publish.
    #[error("the tree is empty")]
    EmptyTree,
    /// Too many paths would go.
    #[error("{removed} of {total} paths would go")]
    Shrinks {
        /// So many.
        removed: u64,
        /// Of so many.
        total: u64,
    },
    /// Paths that must be there are not.
    #[error("must_have: the tree lacks {}", list(paths))]
    Lacks {
        /// The paths.
        paths: Vec<String>,
    },
    /// Paths that are to be served no more, and would be.
    #[error("what --expunge names is in the tree, and would still be served: {}", list(paths))]
    Expunged {
        /// The paths.
        paths: Vec<String>,
    },
    /// Names that no website shows on purpose.
    #[error("the tree has {}", list(paths))]
    Secrets {
        /// The paths.
        paths: Vec<String>,
    },
    /// Content that a rollback left.
    #[error("this very content was rolled back, as release {sequence} remembers")]
    Rejected {
        /// The sequence of the newest release.
        sequence: u64,
    },
}

fn list(paths: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = paths.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if paths.len() > SHOWN {
        text.push_str(&format!(" and {} more", paths.len() - SHOWN));
    }
    text
}

fn is_secret(path: &TreePath) -> bool {
    let name = |component: &str| SECRETS.contains(&component) || component.starts_with(".env.");
    path.as_str().split('/').any(name)
}

impl Guards {
    /// Looks at the live paths of a new tree.
    ///
    /// # Errors
    /// The first guard rail that refuses.
    pub fn check_tree<'p>(&self, live: impl Iterator<Item = &'p TreePath> + Clone) -> Result<(), GuardFault> {
        if live.clone().next().is_none() && !self.allow_shrink {
            return Err(GuardFault::EmptyTree);
        }
        let has = |path: &&TreePath| live.clone().any(|live| live.is_within(path.as_str()));
        let paths: Vec<String> = self.must_have.iter().filter(|path| !has(path)).map(ToString::to_string).collect();
        if !paths.is_empty() {
            return Err(GuardFault::Lacks { paths });
        }
        let is_expunged = |path: &&TreePath| self.expunged.iter().any(|gone| path.is_within(gone.as_str()));
        let paths: Vec<String> = live.clone().filter(is_expunged).map(ToString::to_string).collect();
        if !paths.is_empty() {
            return Err(GuardFault::Expunged { paths });
        }
        let secrets = live.filter(|path| !self.allow_secrets && is_secret(path));
        let paths: Vec<String> = secrets.map(ToString::to_string).collect();
        if paths.is_empty() { Ok(()) } else { Err(GuardFault::Secrets { paths }) }
    }

    /// Looks at how many of `total` live paths would go.
    ///
    /// # Errors
    /// [`GuardFault::Shrinks`].
    pub fn check_removed(&self, removed: u64, total: u64) -> Result<(), GuardFault> {
        #[expect(clippy::cast_precision_loss, reason = "a share, and far fewer than 2^52 paths")]
        let too_many = match self.max_removed {
            MaxRemoved::Paths(limit) => removed > limit,
            MaxRemoved::Part(part) => removed > SMALL && removed as f64 > total as f64 * part,
        };
        if too_many && !self.allow_shrink { Err(GuardFault::Shrinks { removed, total }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guards: &Guards, paths: &[&str]) -> Result<(), GuardFault> {
        let paths: Vec<_> = paths.iter().map(|path| TreePath::new(path).unwrap()).collect();
        guards.check_tree(paths.iter())
    }

    #[test]
    fn what_shall_be_served_no_more_is_not_in_the_tree() {
        let guards = Guards { expunged: vec![TreePath::new("a/leak").unwrap()], ..Guards::default() };
        assert_eq!(check(&guards, &["a/leaks", "index.html"]), Ok(()));
        let found = check(&guards, &["a/leak/x.txt", "index.html"]);
        assert_eq!(found, Err(GuardFault::Expunged { paths: vec!["a/leak/x.txt".into()] }));
    }

    #[test]
    fn an_empty_tree_needs_a_word() {
        assert_eq!(check(&Guards::default(), &[]), Err(GuardFault::EmptyTree));
        assert_eq!(check(&Guards { allow_shrink: true, ..Guards::default() }, &[]), Ok(()));
    }

    #[test]
    fn secrets_are_named_wherever_they_are() {
        for path in [".git/config", "a/.env", "b/.env.local", "x/id_rsa"] {
            let fault = check(&Guards::default(), &[path]);
            assert_eq!(fault, Err(GuardFault::Secrets { paths: vec![path.into()] }));
        }
        assert_eq!(check(&Guards::default(), &[".gitignore", "environment"]), Ok(()));
    }

    #[test]
    fn a_must_may_be_a_file_or_a_directory() {
        let guards = |path| Guards { must_have: vec![TreePath::new(path).unwrap()], ..Guards::default() };
        let tree = ["a", "d-x", "d/e", "index.html"];
        for there in ["a", "d", "d/e", "index.html"] {
            assert_eq!(check(&guards(there), &tree), Ok(()), "{there}");
        }
        assert!(check(&guards("index"), &tree).is_err());
    }

    #[test]
    fn half_of_a_large_tree_does_not_go_unasked() {
        let guards = Guards::default();
        assert_eq!(guards.check_removed(100, 100), Ok(()));
        assert_eq!(guards.check_removed(101, 202), Ok(()));
        assert!(guards.check_removed(102, 203).is_err());
        assert!(Guards { max_removed: MaxRemoved::Paths(3), ..guards }.check_removed(4, 1000).is_err());
    }
}
