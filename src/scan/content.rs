//! Hashes files, checks that they do not change while they are read, and finds private keys.

use std::fs::Metadata;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::Ordering;

use super::opener::{ContentFault, Opener, matches_stamp};
use super::workers::Counters;
use crate::fsx::{self, FileStat};
use crate::hash::ObjectId;

// Files are read, not mapped: mapping is no faster here (a GB in 0.3 s either way), and if a mapped
// file were truncated, SIGBUS would end the process.
/// Bytes per read: large enough to make the cost of system calls negligible, small enough for a
/// core's cache.
const READ_BYTES: usize = 256 * 1024;
/// Maximum size, in bytes, of a file that is searched for a private key. A certificate chain with
/// its key takes a tenth of this.
const MAX_KEY_BYTES: usize = 64 * 1024;

/// Hashes files one after another, with a single buffer.
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
        // A file up to this size is still in the buffer, whole.
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
        stat_now: impl FnOnce() -> Result<Metadata, ContentFault>,
    ) -> Result<ObjectId, ContentFault> {
        // The open file had this stamp before and after the read, so the stamp belongs to the bytes
        // that were read, whatever happened to the path.
        let id = self.hash_exactly(reader, stamp.size, counters)?;
        if matches_stamp(&stat_now()?, stamp) { Ok(id) } else { Err(ContentFault::Changed) }
    }

    /// The id of the first `size` bytes. Does not check for the end of the file: a file that has
    /// grown has a different stamp.
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
            // A file that fits in the buffer is collected there, even if reads are short.
            let done = if size <= READ_BYTES as u64 {
                usize::try_from(size - left).unwrap_or(0)
            } else {
                0
            };
            let wanted = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES - done);
            match reader.read(&mut self.buffer[done..done + wanted]) {
                // The file became shorter.
                Ok(0) => return Err(ContentFault::Changed),
                Ok(count) => {
                    hasher.update(&self.buffer[done..done + count]);
                    left -= count as u64;
                    // Counted along the way, because reading a large file may take minutes.
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
    // Some editors put a byte order mark before the text.
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
    use std::fs::File;
    use std::io::Write as _;

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
    fn file_that_changes_while_read_is_detected() {
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
    fn private_keys_are_detected_by_their_first_bytes() {
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
}
