//! Every kind of damage that `verify` must find in a store.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use headwater::hash::ObjectId;
use headwater::store::FaultKind;

use crate::origin::Version;

/// Lets the owner write to a file of the store.
pub(crate) fn make_writable(file: &Path) {
    fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
}

/// Flips a bit in place like a failing disk: time and mode do not change.
pub(crate) fn flip_byte(path: &Path, at: u64) {
    let meta = fs::metadata(path).unwrap();
    make_writable(path);
    let mut file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    file.set_modified(meta.modified().unwrap()).unwrap();
    fs::set_permissions(path, meta.permissions()).unwrap();
}

/// A store with two releases after a clean-up, and the paths of its parts.
pub(crate) struct StorePaths<'a> {
    pub(crate) store: &'a Path,
    pub(crate) current: &'a Version,
    pub(crate) before: &'a Version,
}

impl StorePaths<'_> {
    fn at(&self, path: String) -> PathBuf {
        self.store.join(".headwater").join(path)
    }

    fn object(&self, object: ObjectId) -> PathBuf {
        let hex = object.to_string();
        self.at(format!("objects/{}/{hex}", &hex[..2]))
    }

    fn manifest(&self, version: &Version) -> PathBuf {
        self.at(format!("manifests/{}.zst", version.release.manifest))
    }

    fn record(&self, version: &Version) -> PathBuf {
        self.at(format!("releases/{}.json", version.name()))
    }

    fn slot(&self, version: &Version, path: &str) -> PathBuf {
        self.at(format!("slots/{}/{path}", version.name()))
    }
}

/// Gives `path` its own inode, with the same bytes, time and mode.
pub(crate) fn detach(path: &Path) {
    let meta = fs::metadata(path).unwrap();
    let copy = path.with_extension("copy");
    fs::write(&copy, fs::read(path).unwrap()).unwrap();
    File::open(&copy).unwrap().set_modified(meta.modified().unwrap()).unwrap();
    fs::set_permissions(&copy, meta.permissions()).unwrap();
    fs::rename(&copy, path).unwrap();
}

fn replace(path: &Path, with: impl FnOnce(&Path)) {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
    .unwrap();
    with(path);
}

fn set_mtime(path: &Path, seconds: u64) {
    File::open(path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

/// A kind of damage. `harm` causes it and returns the path at which `verify` must find it.
pub(crate) struct Damage {
    pub(crate) name: &'static str,
    pub(crate) kind: FaultKind,
    /// Whether sizes and times show it.
    pub(crate) is_quick: bool,
    pub(crate) harm: fn(&StorePaths<'_>) -> PathBuf,
}

const fn hidden(
    name: &'static str,
    kind: FaultKind,
    harm: fn(&StorePaths<'_>) -> PathBuf,
) -> Damage {
    Damage { name, kind, is_quick: false, harm }
}

const fn plain(
    name: &'static str,
    kind: FaultKind,
    harm: fn(&StorePaths<'_>) -> PathBuf,
) -> Damage {
    Damage { name, kind, is_quick: true, harm }
}

fn harmed(path: PathBuf, harm: impl FnOnce(&Path)) -> PathBuf {
    harm(&path);
    path
}

/// All kinds of damage, each for its own store.
pub(crate) const DAMAGES: [Damage; 29] = [
    hidden("a bit of an object and its slots", FaultKind::Content, |it| {
        harmed(it.object(it.current.file("app.js").object), |path| flip_byte(path, 1000))
    }),
    hidden("a bit of an object that only an old release has", FaultKind::Content, |it| {
        harmed(it.object(it.before.file("app.js").object), |path| flip_byte(path, 1000))
    }),
    hidden("a cut object", FaultKind::Content, |it| {
        harmed(it.object(it.before.file("app.js").object), |path| {
            make_writable(path);
            File::options().write(true).open(path).unwrap().set_len(10).unwrap();
        })
    }),
    hidden("a missing object", FaultKind::Missing, |it| {
        harmed(it.object(it.current.file("img/new.bin").object), |path| {
            fs::remove_file(path).unwrap();
        })
    }),
    hidden("a directory for an object", FaultKind::WrongKind, |it| {
        harmed(it.object(it.current.file("img/new.bin").object), |path| {
            replace(path, |path| fs::create_dir(path).unwrap());
        })
    }),
    hidden("a link for an object", FaultKind::WrongKind, |it| {
        harmed(it.object(it.current.file("img/new.bin").object), |path| {
            replace(path, |path| symlink("/etc/hostname", path).unwrap());
        })
    }),
    hidden("a bit of the current manifest", FaultKind::Content, |it| {
        harmed(it.manifest(it.current), |path| {
            flip_byte(path, fs::metadata(path).unwrap().len() / 2);
        })
    }),
    hidden("a bit of an old manifest", FaultKind::Content, |it| {
        harmed(it.manifest(it.before), |path| {
            flip_byte(path, fs::metadata(path).unwrap().len() / 2);
        })
    }),
    plain("the current manifest missing", FaultKind::Missing, |it| {
        harmed(it.manifest(it.current), |path| fs::remove_file(path).unwrap())
    }),
    hidden("an old manifest missing", FaultKind::Missing, |it| {
        harmed(it.manifest(it.before), |path| fs::remove_file(path).unwrap())
    }),
    plain("an empty manifest", FaultKind::Content, |it| {
        harmed(it.manifest(it.current), |path| fs::write(path, b"").unwrap())
    }),
    plain("a bit of the current record", FaultKind::Content, |it| {
        harmed(it.record(it.current), |path| flip_byte(path, 60))
    }),
    hidden("a bit of an old record", FaultKind::Content, |it| {
        harmed(it.record(it.before), |path| flip_byte(path, 60))
    }),
    plain("the current record missing", FaultKind::Missing, |it| {
        harmed(it.record(it.current), |path| fs::remove_file(path).unwrap())
    }),
    hidden("a bit of a served file", FaultKind::Content, |it| {
        harmed(it.slot(it.current, "app.js"), |path| {
            detach(path);
            flip_byte(path, 9);
        })
    }),
    hidden("a bit of a file in the idle slot", FaultKind::Content, |it| {
        harmed(it.slot(it.before, "app.js"), |path| {
            detach(path);
            flip_byte(path, 9);
        })
    }),
    plain("a served file longer than it was", FaultKind::Size, |it| {
        harmed(it.slot(it.current, "index.html"), |path| {
            detach(path);
            make_writable(path);
            fs::write(path, "<h1>by hand</h1>\n").unwrap();
        })
    }),
    plain("another time of a served file", FaultKind::Time, |it| {
        harmed(it.slot(it.current, "app.js"), |path| set_mtime(path, 1_600_000_000))
    }),
    hidden("another time of a file in the idle slot", FaultKind::Time, |it| {
        harmed(it.slot(it.before, "app.js"), |path| set_mtime(path, 1_600_000_000))
    }),
    plain("another mode of a served file", FaultKind::Mode, |it| {
        harmed(it.slot(it.current, "bin/tool"), |path| {
            fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        })
    }),
    plain("a served file missing", FaultKind::Missing, |it| {
        harmed(it.slot(it.current, "img/copy.bin"), |path| fs::remove_file(path).unwrap())
    }),
    plain("a served directory missing", FaultKind::Missing, |it| {
        fs::remove_dir_all(it.slot(it.current, "bin")).unwrap();
        it.slot(it.current, "bin/tool")
    }),
    plain("a served file that is a link", FaultKind::WrongKind, |it| {
        harmed(it.slot(it.current, "app.js"), |path| {
            replace(path, |path| symlink("index.html", path).unwrap());
        })
    }),
    plain("a served file that is a directory", FaultKind::WrongKind, |it| {
        harmed(it.slot(it.current, "app.js"), |path| {
            replace(path, |path| fs::create_dir_all(path.join("in/it")).unwrap());
        })
    }),
    plain("a served directory that is a link", FaultKind::Missing, |it| {
        replace(&it.slot(it.current, "bin"), |path| symlink("/tmp", path).unwrap());
        it.slot(it.current, "bin/tool")
    }),
    plain("a served link that is a file", FaultKind::WrongKind, |it| {
        harmed(it.slot(it.current, "latest"), |path| {
            replace(path, |path| fs::write(path, "img").unwrap());
        })
    }),
    plain("a served link that leads elsewhere", FaultKind::Target, |it| {
        harmed(it.slot(it.current, "latest"), |path| {
            replace(path, |path| symlink("/etc", path).unwrap());
        })
    }),
    plain("an unexpected file among the served ones", FaultKind::Unexpected, |it| {
        harmed(it.slot(it.current, "img/stranger.html"), |path| fs::write(path, "hello").unwrap())
    }),
    plain("an empty directory among the served files", FaultKind::Unexpected, |it| {
        harmed(it.slot(it.current, "empty"), |path| fs::create_dir(path).unwrap())
    }),
];
