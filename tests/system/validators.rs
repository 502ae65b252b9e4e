//! G29: when the bytes at a path change, web servers and browsers notice.
//!
//! nginx and Caddy derive the ETag of a file from its modification time and size alone. So the
//! modification time must rise whenever the bytes differ, for every path that a visitor can
//! request, also through links, and also for a path that returns after an absence.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::corrupt_store::forge;
use crate::harness::Sandbox;
use crate::trees::{Node, Rng, Tree};

/// One state in which a path was served.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PathState {
    mtime: i64,
    size: u64,
    bytes: String,
}

/// A visitor with a cache: remembers every state of every path.
#[derive(Debug, Default)]
struct Visitor {
    states: BTreeMap<String, Vec<PathState>>,
}

impl Visitor {
    /// Visits every path of the mirror as a web server would serve it.
    fn visit(&mut self, sandbox: &Sandbox, what: &str) {
        let root = sandbox.path("mirror/current");
        self.visit_directory(&root, "", 0, what);
    }

    fn visit_directory(&mut self, root: &Path, path: &str, depth: usize, what: &str) {
        assert!(depth < 20, "a loop of links at {path}");
        for entry in fs::read_dir(root.join(path)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            // Links are followed; a retired link may lead to a removed file.
            match fs::metadata(root.join(&path)) {
                Ok(meta) if meta.is_dir() => self.visit_directory(root, &path, depth + 1, what),
                Ok(meta) => {
                    let bytes =
                        blake3::hash(&fs::read(root.join(&path)).unwrap()).to_hex().to_string();
                    self.see(
                        &path,
                        PathState { mtime: meta.mtime(), size: meta.size(), bytes },
                        what,
                    );
                }
                Err(_) => {}
            }
        }
    }

    fn see(&mut self, path: &str, state: PathState, what: &str) {
        let states = self.states.entry(path.to_owned()).or_default();
        if let Some(last) = states.last().filter(|last| last.bytes != state.bytes) {
            assert!(state.mtime > last.mtime, "{what}: {path} changed from {last:?} to {state:?}");
        }
        let twin = states.iter().find(|old| (old.mtime, old.size) == (state.mtime, state.size));
        assert!(
            twin.is_none_or(|old| *old == state),
            "{what}: {path} is {state:?} and was {twin:?}"
        );
        if states.last() != Some(&state) {
            states.push(state);
        }
    }

    /// Returns how many states this path had.
    fn states(&self, path: &str) -> usize {
        self.states.get(path).map_or(0, Vec::len)
    }
}

/// Publishes each tree in turn; returns the visitor that saw all of them.
fn visited(trees: &[Tree]) -> Visitor {
    let sandbox = Sandbox::new();
    let mut visitor = Visitor::default();
    for (number, tree) in trees.iter().enumerate() {
        sandbox.publish(tree, &["mirror"], &["--again"]);
        visitor.visit(&sandbox, &format!("release {}", number + 1));
    }
    visitor
}

fn letters(count: u8) -> impl Iterator<Item = Tree> {
    (0..count).map(|number| Tree::small().file("js/app.js", [b'a' + number]))
}

#[test]
fn same_size_edits_within_a_second_change_the_validators() {
    let visitor = visited(&letters(12).collect::<Vec<_>>());
    assert_eq!(visitor.states("js/app.js"), 12);
    assert_eq!(visitor.states("index.html"), 1, "an unchanged file keeps its validators");
}

#[test]
fn edits_back_and_forth_change_the_validators() {
    let (a, b) = (Tree::small().file("x.css", "a"), Tree::small().file("x.css", "b"));
    let visitor = visited(&[a.clone(), b.clone(), a.clone(), b, a]);
    assert_eq!(visitor.states("x.css"), 5);
}

#[test]
fn removed_and_restored_file_changes_the_validators() {
    for path in ["x.html", "x.css", "deep/er/x.css"] {
        let (with, other) = (Tree::small().file(path, "a"), Tree::small().file(path, "b"));
        let visitor = visited(&[with.clone(), Tree::small(), other.clone(), Tree::small(), with]);
        assert!(visitor.states(path) >= 3, "{path}");
    }
}

#[test]
fn changed_link_changes_the_validators_behind_it() {
    let tree =
        Tree::small().file("docs/v1/deep/b.html", "1111").file("docs/v2/deep/b.html", "2222");
    let (first, second) = (tree.clone().link("docs/latest", "v1"), tree.link("docs/latest", "v2"));
    let visitor = visited(&[first.clone(), second.clone(), first, second]);
    assert_eq!(visitor.states("docs/latest/a.html"), 4);
    assert_eq!(visitor.states("docs/latest/deep/b.html"), 4);
}

#[test]
fn changed_link_behind_a_link_changes_the_validators() {
    let tree = Tree::small().link("newest", "docs/latest").link("js/doc.html", "../newest/a.html");
    let (first, second) = (tree.clone().link("docs/latest", "v1"), tree.link("docs/latest", "v2"));
    let visitor = visited(&[first.clone(), second.clone(), first, second]);
    assert_eq!(visitor.states("newest/a.html"), 4);
    assert_eq!(visitor.states("js/doc.html"), 4);
}

#[test]
fn link_replaced_by_file_or_directory_changes_the_validators() {
    let link = Tree::small().file("docs/v1/b.html", "bbbb");
    let directory = link.clone().without("docs/latest").file("docs/latest/a.html", "<p>own</p>");
    let file = link.clone().without("docs/latest").file("docs/latest", "a file");
    let other = link.clone().link("docs/latest", "v2");
    let visitor =
        visited(&[link.clone(), directory.clone(), other, file, link.clone(), directory, link]);
    assert!(visitor.states("docs/latest/a.html") >= 6);
}

#[test]
fn rollback_changes_the_validators() {
    let sandbox = Sandbox::new();
    let mut visitor = Visitor::default();
    for tree in letters(3) {
        sandbox.publish(&tree, &["mirror"], &[]);
        visitor.visit(&sandbox, "push");
    }
    for sequence in [1, 2, 3] {
        // Three releases are kept, so release 1 may be gone by now.
        let records = crate::checker::records(&sandbox.path("mirror"));
        let to = records.values().map(|record| record.sequence).min().unwrap().to_string();
        sandbox.run(&["rollback", &sandbox.path_text("mirror"), "--to", &to]).expect(&[0]);
        sandbox.served("mirror");
        visitor.visit(&sandbox, &format!("rollback {sequence}"));
    }
    assert_eq!(visitor.states("js/app.js"), 6);
}

#[test]
fn clock_set_back_a_day_still_changes_the_validators() {
    let sandbox = Sandbox::new();
    let mut visitor = Visitor::default();
    sandbox.publish(&Tree::small().file("x.css", "a"), &["mirror"], &[]);
    let served = sandbox.served("mirror");
    let ahead = served.record.created + 86_400;
    let slot = sandbox.path("mirror/current/x.css").canonicalize().unwrap();
    forge(&sandbox.path("mirror"), |forgery| {
        forgery.record.created = ahead;
        forgery.record.began = ahead * 1000;
        forgery.lines.iter_mut().find(|line| line.path == "x.css").unwrap().mtime = Some(ahead);
    });
    // The file as that release would have it.
    let name = slot
        .strip_prefix(sandbox.path("mirror/.headwater/slots").join(&served.name))
        .unwrap()
        .to_owned();
    let file = sandbox.path("mirror/current").join(name);
    fs::remove_file(&file).unwrap();
    Tree::default().file("x.css", "a").write_to(&sandbox.path("twin"));
    fs::copy(sandbox.path("twin/x.css"), &file).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(ahead);
    fs::File::open(&file).unwrap().set_modified(time).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    sandbox.served("mirror");
    visitor.visit(&sandbox, "ahead");
    for letter in ["b", "c"] {
        let served = sandbox.publish(&Tree::small().file("x.css", letter), &["mirror"], &[]);
        assert!(served.record.created > ahead);
        visitor.visit(&sandbox, letter);
    }
    assert_eq!(visitor.states("x.css"), 3);
}

#[test]
fn random_changes_change_the_validators() {
    let mut rng = Rng::new(crate::trees::seed());
    for _ in 0..4 {
        let mut tree = Tree::random(&mut rng, 12);
        let mut trees = vec![tree.clone()];
        for _ in 0..12 {
            for _ in 0..3 {
                tree.mutate(&mut rng);
                tree.edit_same_size(&mut rng);
            }
            trees.push(tree.clone());
        }
        trees.push(trees[3].clone());
        assert!(
            trees.iter().all(|tree| tree.nodes.values().any(|node| matches!(node, Node::Link(_))))
        );
        visited(&trees);
    }
}
