//! Small content trees: hand-written, or random from a seed that is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Reproducible random numbers (xorshift64*): a seed must always give the same numbers.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    /// Creates the sequence of `seed`.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15 | 1)
    }

    /// Returns the next number.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// Returns a number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    /// Returns true in `percent` of all cases.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Returns one of several items.
    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// Returns incompressible bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes()[..6]);
        }
        bytes.truncate(length);
        bytes
    }

    /// Returns compressible text.
    fn text(&mut self, words: usize) -> Vec<u8> {
        const WORDS: [&str; 8] =
            ["water", "stone", "river", "<p>", "</p>", "function", "colour", "\n"];
        (0..words).map(|_| self.pick(&WORDS)).collect::<Vec<_>>().join(" ").into_bytes()
    }
}

/// Returns and prints the seed from `HEADWATER_SEED`, or a random one.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("HEADWATER_SEED").ok();
    let any = || std::collections::hash_map::RandomState::new().build_hasher().finish() >> 32;
    let seed = given.map_or_else(any, |text| text.parse().expect("HEADWATER_SEED is a number"));
    println!("HEADWATER_SEED={seed}");
    seed
}

/// A file or link of a content tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// A file.
    File {
        /// Its content.
        bytes: Vec<u8>,
        /// Whether it is executable.
        exec: bool,
    },
    /// A symbolic link with this target.
    Link(String),
}

/// A content tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    /// The files and links by path.
    pub(crate) nodes: BTreeMap<String, Node>,
    /// The next number for a name, so that names are unique.
    names: usize,
}

/// Files that links point to: they are edited but never removed.
const ANCHORS: [&str; 4] = ["v1/app.js", "v1/index.html", "v2/app.js", "v2/index.html"];

impl Tree {
    /// Adds or replaces a file.
    pub(crate) fn file(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.put(path, bytes);
        self
    }

    /// Adds a link.
    pub(crate) fn link(mut self, path: &str, target: &str) -> Self {
        self.nodes.insert(path.to_owned(), Node::Link(target.to_owned()));
        self
    }

    /// Removes a path.
    pub(crate) fn without(mut self, path: &str) -> Self {
        self.nodes.remove(path).expect("the file exists");
        self
    }

    /// Writes a file at a path.
    pub(crate) fn put(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.nodes.insert(path.to_owned(), Node::File { bytes: bytes.into(), exec: false });
    }

    /// A dozen files of every kind.
    pub(crate) fn small() -> Self {
        let mut tree = Self::default()
            .file("index.html", "<h1>first</h1>")
            .file("about.html", "<h1>about</h1>")
            .file("css/site.css", "body { color: black }")
            .file("js/app.js", "let release = 1;")
            .file("js/vendor/lib.js", "export const lib = 'lib';".repeat(40))
            .file("img/logo.bin", Rng::new(7).bytes(3000))
            .file("img/copy.bin", Rng::new(7).bytes(3000))
            .file("img/empty", "")
            .file("docs/v1/a.html", "<p>one</p>")
            .file("docs/v2/a.html", "<p>two</p>")
            .file("old/page.html", "<p>old</p>")
            .link("docs/latest", "v1");
        tree.nodes
            .insert("bin/tool".into(), Node::File { bytes: b"#!/bin/sh\n".to_vec(), exec: true });
        tree
    }

    /// A random tree of about `files` files, with the anchors.
    pub(crate) fn random(rng: &mut Rng, files: usize) -> Self {
        let mut tree = ANCHORS
            .iter()
            .fold(Self::default(), |tree, path| tree.file(path, format!("anchor {path}")));
        tree = tree.link("latest", "v1").link("deep/er/app.js", "../../v1/app.js");
        for _ in 0..files {
            tree.add(rng);
        }
        tree
    }

    /// Makes one random change and returns its description.
    pub(crate) fn mutate(&mut self, rng: &mut Rng) -> String {
        match rng.below(9) {
            0 => self.edit(rng),
            1 => self.edit_same_size(rng),
            2 | 3 => self.add(rng),
            4 => self.remove(rng),
            5 => self.rename(rng),
            6 => self.swap_kind(rng),
            7 => self.move_link(rng),
            _ => self.flip_exec(rng),
        }
    }

    fn any_file(&self, rng: &mut Rng) -> String {
        let is_file = |(path, node): (&String, &Node)| {
            matches!(node, Node::File { .. }).then(|| path.clone())
        };
        rng.pick(&self.nodes.iter().filter_map(is_file).collect::<Vec<_>>())
    }

    fn any_removable(&self, rng: &mut Rng) -> Option<String> {
        let kept = |path: &&String| {
            !ANCHORS.contains(&&***path) && *path != "latest" && *path != "deep/er/app.js"
        };
        let paths: Vec<String> = self.nodes.keys().filter(kept).cloned().collect();
        (!paths.is_empty()).then(|| rng.pick(&paths))
    }

    fn edit(&mut self, rng: &mut Rng) -> String {
        let path = self.any_file(rng);
        let Some(Node::File { bytes, .. }) = self.nodes.get_mut(&path) else {
            unreachable!("a file")
        };
        bytes.extend_from_slice(format!("edit {}\n", rng.next()).as_bytes());
        format!("edit {path}")
    }

    /// Changes a file without changing its length: the kind of edit that validators of web servers
    /// miss.
    pub(crate) fn edit_same_size(&mut self, rng: &mut Rng) -> String {
        let path = self.any_file(rng);
        let Some(Node::File { bytes, .. }) = self.nodes.get_mut(&path) else {
            unreachable!("a file")
        };
        if bytes.is_empty() {
            bytes.push(b'x');
        } else {
            let at = rng.below(bytes.len());
            bytes[at] = bytes[at].wrapping_add(1);
        }
        format!("edit in place {path}")
    }

    fn new_path(&mut self, rng: &mut Rng) -> String {
        const DIRECTORIES: [&str; 7] = ["", "a/", "a/b/", "a/b/c/", "assets/", "é ü/", "q\"uote/"];
        const ENDS: [&str; 7] = [".html", ".js", ".css", ".png", "", ".tar.gz", ".json"];
        self.names += 1;
        format!("{}f{}{}", rng.pick(&DIRECTORIES), self.names, rng.pick(&ENDS))
    }

    fn add(&mut self, rng: &mut Rng) -> String {
        let path = self.new_path(rng);
        let exec = rng.chance(10);
        let bytes = match rng.below(10) {
            0 => Vec::new(),
            1 if !self.nodes.is_empty() => match &self.nodes[&self.any_file(rng)] {
                Node::File { bytes, .. } => bytes.clone(),
                Node::Link(_) => unreachable!("a file"),
            },
            2 | 3 => {
                let length = rng.below(20_000);
                rng.bytes(length)
            }
            _ => {
                let words = rng.below(400);
                rng.text(words)
            }
        };
        // There may be a file, made by an earlier swap, where this path needs a directory.
        let is_blocked = |path: &str| {
            path.match_indices('/').any(|(at, _)| self.nodes.contains_key(&path[..at]))
        };
        let path = if is_blocked(&path) { path.replace('/', "-") } else { path };
        self.nodes.insert(path.clone(), Node::File { bytes, exec });
        format!("add {path}")
    }

    fn remove(&mut self, rng: &mut Rng) -> String {
        let Some(path) = self.any_removable(rng) else { return self.add(rng) };
        self.nodes.remove(&path);
        format!("remove {path}")
    }

    fn rename(&mut self, rng: &mut Rng) -> String {
        let Some(path) = self.any_removable(rng) else { return self.add(rng) };
        let node = self.nodes.remove(&path).unwrap();
        let to = self.new_path(rng).replace('/', "_");
        self.nodes.insert(to.clone(), node);
        format!("rename {path} to {to}")
    }

    fn swap_kind(&mut self, rng: &mut Rng) -> String {
        let Some(path) = self.any_removable(rng) else { return self.add(rng) };
        match path.rsplit_once('/') {
            Some((parent, _)) if rng.chance(50) => {
                let below = format!("{parent}/");
                let anchored = |path: &str| ANCHORS.contains(&path) || path == "deep/er/app.js";
                if self.nodes.keys().any(|path| path.starts_with(&below) && anchored(path)) {
                    return self.add(rng);
                }
                self.nodes.retain(|path, _| !path.starts_with(&below));
                self.put(parent, format!("a file now {}", rng.next()));
                format!("directory to file {parent}")
            }
            _ => {
                let node = self.nodes.remove(&path).unwrap();
                self.nodes.insert(format!("{path}/inner.txt"), node);
                format!("file to directory {path}")
            }
        }
    }

    fn move_link(&mut self, rng: &mut Rng) -> String {
        let version = rng.pick(&["v1", "v2"]);
        let path = rng.pick(&["latest", "deep/er/app.js"]);
        let target =
            if path == "latest" { version.to_owned() } else { format!("../../{version}/app.js") };
        self.nodes.insert(path.to_owned(), Node::Link(target));
        format!("link {path} to {version}")
    }

    fn flip_exec(&mut self, rng: &mut Rng) -> String {
        let path = self.any_file(rng);
        let Some(Node::File { exec, .. }) = self.nodes.get_mut(&path) else {
            unreachable!("a file")
        };
        *exec = !*exec;
        format!("flip exec of {path}")
    }

    /// Makes the directory `root` equal to this tree. Correct files stay untouched; others are
    /// written in place.
    pub(crate) fn write_to(&self, root: &Path) {
        fs::create_dir_all(root).unwrap();
        let directories: BTreeSet<&str> = self
            .nodes
            .keys()
            .flat_map(|path| path.match_indices('/').map(|(at, _)| &path[..at]))
            .collect();
        clear(root, "", &|path, is_directory| {
            if is_directory { directories.contains(path) } else { self.nodes.contains_key(path) }
        });
        for (path, node) in &self.nodes {
            let full = root.join(path);
            fs::create_dir_all(full.parent().unwrap()).unwrap();
            match node {
                Node::File { bytes, exec } => write_file(&full, bytes, *exec),
                Node::Link(target) => {
                    if fs::read_link(&full).ok().as_deref() != Some(Path::new(target)) {
                        fs::remove_file(&full).ok();
                        std::os::unix::fs::symlink(target, &full).unwrap();
                    }
                }
            }
        }
    }
}

/// Removes everything for which `keep` returns false.
fn clear(root: &Path, path: &str, keep: &dyn Fn(&str, bool) -> bool) {
    for entry in fs::read_dir(root.join(path)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
        let is_directory = entry.file_type().unwrap().is_dir();
        match (is_directory, keep(&path, is_directory)) {
            (true, true) => clear(root, &path, keep),
            (true, false) => fs::remove_dir_all(entry.path()).unwrap(),
            (false, true) => {}
            (false, false) => fs::remove_file(entry.path()).unwrap(),
        }
    }
}

fn write_file(path: &Path, bytes: &[u8], exec: bool) {
    let is_file = path.symlink_metadata().is_ok_and(|meta| meta.is_file());
    if !is_file {
        fs::remove_file(path).ok();
    }
    if !is_file || fs::read(path).unwrap() != bytes {
        fs::write(path, bytes).unwrap();
    }
    let mode = if exec { 0o755 } else { 0o644 };
    if path.metadata().unwrap().permissions().mode() & 0o777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn equal_seeds_give_equal_trees_on_disk() {
    let seed = seed();
    let dir = tempfile::tempdir().unwrap();
    let (mut rng, mut again) = (Rng::new(seed), Rng::new(seed));
    let (mut tree, mut twin) = (Tree::random(&mut rng, 10), Tree::random(&mut again, 10));
    for _ in 0..60 {
        let what = tree.mutate(&mut rng);
        twin.mutate(&mut again);
        assert_eq!(tree, twin, "{what}");
        tree.write_to(dir.path());
        let found = crate::checker::read_tree(dir.path());
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            tree.nodes.keys().collect::<Vec<_>>(),
            "{what}"
        );
    }
}
