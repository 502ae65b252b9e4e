//! Opens files without leaving the tree, and hashes each file only if it did not change meanwhile.
//!
//! Every directory below the root is opened step by step and without following links. A process
//! that replaces a directory by a link therefore cannot make the scan read files outside. (In
//! follow mode the operator asked for links to be followed.)

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::Ordering;

use super::walk::OpenRoot;
use super::workers::Counters;
use crate::fsx::{self, Dir, FileStat, IoError};
use crate::hash::ObjectId;

/// Bytes per read: large enough that the cost of system calls is negligible, small enough for the
/// cache of a core.
const READ_BYTES: usize = 256 * 1024;
/// Maximum size of a file that is searched for a private key, in bytes. A certificate chain with
/// its key takes a tenth of this.
const MAX_KEY_BYTES: usize = 64 * 1024;

/// Why a file could not be hashed.
#[derive(Debug)]
pub(super) enum ContentFault {
    /// The file does not match its stamp, or changed while it was read.
    Changed,
    /// The scan was stopped.
    Stopped,
    Io(io::Error),
}

impl From<IoError> for ContentFault {
    fn from(error: IoError) -> Self {
        Self::Io(error.source)
    }
}

/// Opens entries of one root. Keeps the last directory open, because neighbours follow one another;
/// only that one, because a tree may be deeper than the limit of open files.
#[derive(Debug)]
pub(super) struct Opener<'a> {
    root: &'a OpenRoot,
    follow: bool,
    last: Option<(String, Dir)>,
}

impl<'a> Opener<'a> {
    pub(super) const fn new(root: &'a OpenRoot, follow: bool) -> Self {
        Self { root, follow, last: None }
    }

    /// The open directory that contains the entry at `relative`, and the entry's name in it.
    fn locate<'p>(&mut self, relative: &'p str) -> fsx::Result<(&Dir, &'p str)> {
        let Some((parent, name)) = relative.rsplit_once('/') else {
            return Ok((&self.root.dir, relative));
        };
        if self.last.as_ref().is_none_or(|(path, _)| path != parent) {
            self.last = None;
            let mut names = parent.split('/');
            let mut dir = self.root.dir.open_dir(names.next().unwrap_or_default())?;
            for name in names {
                dir = dir.open_dir(name)?;
            }
            self.last = Some((parent.to_owned(), dir));
        }
        Ok((self.last.as_ref().map_or(&self.root.dir, |(_, dir)| dir), name))
    }

    /// Opens the file at `relative` without checking its stamp.
    pub(super) fn open_any(&mut self, relative: &str) -> fsx::Result<File> {
        if self.follow {
            return fsx::open_read(&fsx::resolve(&self.root.path.join(relative))?);
        }
        let (dir, name) = self.locate(relative)?;
        dir.open_file(name)
    }

    /// Opens the file at `relative` if it matches `stamp`.
    pub(super) fn open(&mut self, relative: &str, stamp: &FileStat) -> Result<File, ContentFault> {
        check(self.open_any(relative)?, relative, stamp)
    }

    /// As [`Opener::open`], for a single file. Keeps no directory open.
    pub(super) fn open_once(&self, relative: &str, stamp: &FileStat) -> Result<File, ContentFault> {
        let file = if self.follow {
            fsx::open_read(&fsx::resolve(&self.root.path.join(relative))?)?
        } else {
            self.root.dir.open_file_below(relative)?
        };
        check(file, relative, stamp)
    }

    /// Reads the target of the link at `relative`.
    pub(super) fn read_link(&mut self, relative: &str) -> Result<Vec<u8>, ContentFault> {
        let (dir, name) = self.locate(relative)?;
        match dir.read_link(name) {
            Ok(Some(target)) => Ok(target.into_encoded_bytes()),
            Ok(None) => Err(ContentFault::Io(io::ErrorKind::NotFound.into())),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(ContentFault::Changed),
            Err(error) => Err(error.into()),
        }
    }
}

fn check(file: File, relative: &str, stamp: &FileStat) -> Result<File, ContentFault> {
    if is_still(&fsx::fstat(&file, Path::new(relative))?, stamp) {
        Ok(file)
    } else {
        Err(ContentFault::Changed)
    }
}

fn is_still(meta: &Metadata, stamp: &FileStat) -> bool {
    meta.is_file() && FileStat::of(meta) == *stamp
}

/// Hashes files one after another, reusing one buffer.
#[derive(Debug)]
pub(super) struct FileHasher {
    buffer: Vec<u8>,
}

impl FileHasher {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; READ_BYTES] }
    }

    /// Returns the id of the file at `relative`, and whether it begins with a private key. The file
    /// must match `stamp` before and after it is read.
    pub(super) fn hash(
        &mut self,
        opener: &mut Opener<'_>,
        relative: &str,
        stamp: &FileStat,
        counters: &Counters,
    ) -> Result<(ObjectId, bool), ContentFault> {
        let file = opener.open(relative, stamp)?;
        let id = self
            .hash_stable(&file, stamp, counters, || Ok(fsx::fstat(&file, Path::new(relative))?))?;
        // A file of at most this size is still in the buffer as a whole.
        let size = usize::try_from(stamp.size).unwrap_or(usize::MAX);
        let has_private_key =
            size <= MAX_KEY_BYTES && begins_with_private_key(&self.buffer[..size]);
        Ok((id, has_private_key))
    }

    fn hash_stable(
        &mut self,
        reader: impl Read,
        stamp: &FileStat,
        counters: &Counters,
        now: impl FnOnce() -> Result<Metadata, ContentFault>,
    ) -> Result<ObjectId, ContentFault> {
        let id = self.hash_exactly(reader, stamp.size, counters)?;
        if is_still(&now()?, stamp) { Ok(id) } else { Err(ContentFault::Changed) }
    }

    /// The id of the first `size` bytes. Does not look for the end of the file: a file that grew
    /// has another stamp.
    fn hash_exactly(
        &mut self,
        mut reader: impl Read,
        size: u64,
        counters: &Counters,
    ) -> Result<ObjectId, ContentFault> {
        let mut hasher = blake3::Hasher::new();
        let mut left = size;
        while left > 0 {
            if counters.stop.load(Ordering::Relaxed) {
                return Err(ContentFault::Stopped);
            }
            // A file that fits the buffer is collected in it, even by short reads.
            let done = if size <= READ_BYTES as u64 {
                usize::try_from(size - left).unwrap_or(0)
            } else {
                0
            };
            let wanted = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES - done);
            match reader.read(&mut self.buffer[done..done + wanted]) {
                Ok(0) => return Err(ContentFault::Changed),
                Ok(count) => {
                    hasher.update(&self.buffer[done..done + count]);
                    left -= count as u64;
                    // Counted during the file, because reading a large one may take minutes.
                    counters.hashed_bytes.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ContentFault::Io(error)),
            }
        }
        Ok(ObjectId::finish(&hasher))
    }
}

/// Whether `content` begins with a private key in PEM, in PGP armour or in PuTTY's format. Other
/// PEM blocks, such as certificates, may precede the key.
fn begins_with_private_key(content: &[u8]) -> bool {
    let text = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content).trim_ascii_start();
    let is_label = |line: &[u8]| {
        line.ends_with(b"PRIVATE KEY-----") || line.ends_with(b"PRIVATE KEY BLOCK-----")
    };
    let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    text.starts_with(b"PuTTY-User-Key-File-")
        || text.starts_with(b"-----BEGIN ")
            && lines.any(|line| line.starts_with(b"-----BEGIN ") && is_label(line))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::Root;
    use super::*;

    /// A file that is written to once its first bytes were read.
    struct Disturbed<'a, F: FnMut()>(&'a File, F);

    impl<F: FnMut()> Read for Disturbed<'_, F> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let half = buffer.len().min(4);
            let count = self.0.read(&mut buffer[..half])?;
            (self.1)();
            Ok(count)
        }
    }

    fn hash_disturbed(disturb: impl Fn(&Path)) -> Result<ObjectId, ContentFault> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "12345678").unwrap();
        // An old mtime, so that a write within one tick of the clock is detected too.
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        let file = File::open(&path).unwrap();
        let stamp = FileStat::of(&file.metadata().unwrap());
        let reader = Disturbed(&file, || disturb(&path));
        FileHasher::new().hash_stable(reader, &stamp, &Counters::default(), || {
            file.metadata().map_err(ContentFault::Io)
        })
    }

    #[test]
    fn file_that_changes_while_read_is_found() {
        assert_eq!(hash_disturbed(|_| {}).unwrap(), ObjectId::of(b"12345678"));
        let append =
            |path: &Path| File::options().append(true).open(path).unwrap().write_all(b"x").unwrap();
        let truncate =
            |path: &Path| File::options().write(true).open(path).unwrap().set_len(4).unwrap();
        let rewrite = |path: &Path| std::fs::write(path, "87654321").unwrap();
        for disturb in [&append as &dyn Fn(&Path), &truncate, &rewrite] {
            assert!(matches!(hash_disturbed(disturb), Err(ContentFault::Changed)));
        }
    }

    #[test]
    fn private_keys_are_known_by_how_they_begin() {
        for key in [
            "-----BEGIN PRIVATE KEY-----\nMIIE",
            "-----BEGIN RSA PRIVATE KEY-----",
            "\u{feff}\n-----BEGIN OPENSSH PRIVATE KEY-----\r\nb3Bl",
            "-----BEGIN EC PARAMETERS-----\nBggq\n-----END EC PARAMETERS-----\n\
             -----BEGIN EC PRIVATE KEY-----\n",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n\
             -----BEGIN PRIVATE KEY-----\n",
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\n",
            "PuTTY-User-Key-File-3: ssh-ed25519\n",
        ] {
            assert!(begins_with_private_key(key.as_bytes()), "{key}");
        }
        for public in [
            "",
            "-----BEGIN CERTIFICATE-----\n",
            "<pre>-----BEGIN PRIVATE KEY-----",
            "-----BEGIN PUBLIC KEY-----",
        ] {
            assert!(!begins_with_private_key(public.as_bytes()), "{public}");
        }
    }

    #[test]
    fn nothing_is_read_through_a_swapped_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        std::fs::create_dir_all(tree.join("d")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("f"), "secret").unwrap();
        let stamp = FileStat::of(&std::fs::metadata(outside.join("f")).unwrap());
        std::fs::remove_dir(tree.join("d")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("d")).unwrap();
        let root = OpenRoot::open(&Root { path: tree, at: None }).unwrap();
        assert!(matches!(Opener::new(&root, false).open("d/f", &stamp), Err(ContentFault::Io(_))));
        assert!(Opener::new(&root, true).open("d/f", &stamp).is_ok());
    }
}
