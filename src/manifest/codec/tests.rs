//! Tests of the canonical form: writing, reading and refusing.

use super::*;
use proptest::prelude::*;

fn file(path: &str) -> Entry {
    let file = FileEntry {
        object: ObjectId::of(path.as_bytes()),
        size: path.len() as u64,
        mtime: 7,
        exec: false,
    };
    Entry { path: TreePath::new(path).unwrap(), kind: EntryKind::File(file), until: None }
}

fn write(entries: &[Entry]) -> Result<(Vec<u8>, Totals), ManifestError> {
    let mut writer = ManifestWriter::new(Vec::new());
    entries.iter().try_for_each(|entry| writer.push(entry))?;
    writer.finish()
}

fn read(bytes: &[u8]) -> Result<Vec<Entry>, ManifestError> {
    ManifestReader::new(bytes, None)?.collect()
}

#[test]
fn file_and_directory_of_one_name_are_refused() {
    for paths in [&["a", "a/b"][..], &["a", "a-x", "a.b", "a/b"], &["d/a", "d/a b", "d/a/x"]] {
        let entries: Vec<_> = paths.iter().map(|path| file(path)).collect();
        assert!(matches!(write(&entries), Err(ManifestError::BelowFile { .. })), "{paths:?}");
    }
    let entries: Vec<_> = ["a", "a-x/y", "a.b", "ab/c"].iter().map(|path| file(path)).collect();
    assert!(write(&entries).is_ok());
}

#[test]
fn wrong_order_and_duplicates_are_refused_on_read_and_write() {
    for paths in [["b", "a"], ["a", "a"]] {
        let entries: Vec<_> = paths.iter().map(|path| file(path)).collect();
        assert!(matches!(write(&entries), Err(ManifestError::Order { .. })));
        let mut bytes = HEADER.to_vec();
        entries.iter().for_each(|entry| push_entry_line(entry, &mut bytes));
        assert!(matches!(read(&bytes), Err(ManifestError::Order { .. })));
    }
}

#[test]
fn other_encodings_of_an_entry_are_refused() {
    let (bytes, _) = write(&[file("a/b\"c")]).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert!(read(text.as_bytes()).is_ok());
    for (from, to) in [
        ("\"size\":5", "\"size\": 5"),
        ("\"size\":5", "\"size\":05"),
        ("\"size\":5", "\"size\":5.0"),
        ("\"size\":5", "\"size\":9007199254740992"),
        ("\"mtime\":7", "\"mtime\":7,\"exec\":false"),
        ("\"mtime\":7", "\"mtime\":7,\"x\":1"),
        ("a/b", "a\\/b"),
        ("a/b", "\\u0061/b"),
        ("a/b", "../b"),
        ("}\n", "}"),
        ("}\n", "}\r\n"),
        ("}\n", "}\n\n"),
        ("\"version\":1", "\"version\":01"),
        ("\"version\":1", "\"version\":1,\"rules\":\"x\""),
    ] {
        let other = text.replacen(from, to, 1);
        assert_ne!(other, text, "{from}");
        assert!(read(other.as_bytes()).is_err(), "{to}");
    }
}

#[test]
fn newer_version_is_reported() {
    let error =
        ManifestReader::new(&b"{\"headwater\":\"manifest\",\"version\":12,\"new\":1}\n"[..], None)
            .unwrap_err();
    assert!(matches!(error, ManifestError::Version { found } if found == "12"));
}

#[test]
fn flipped_bit_or_truncation_is_never_accepted() {
    let entries: Vec<_> = ["a", "b/c", "b/d"].iter().map(|path| file(path)).collect();
    let (bytes, totals) = write(&entries).unwrap();
    let asked = |bytes: &[u8]| {
        ManifestReader::new(bytes, Some(totals.manifest))?.collect::<Result<Vec<_>, _>>()
    };
    assert_eq!(asked(&bytes).unwrap(), entries);
    for at in 0..bytes.len() {
        assert!(asked(&bytes[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(asked(&damaged).is_err(), "bit {bit} of byte {at}");
        }
    }
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let name = "[a-c .\"é-]{1,4}";
    let path = proptest::collection::vec(name, 1..4).prop_map(|parts| parts.join("/"));
    let one = (
        path,
        any::<[u8; 32]>(),
        0u64..1 << 53,
        0u64..1 << 53,
        any::<bool>(),
        proptest::option::of(0u64..99),
        "[a-c]{1,3}(/[a-c\"]{1,3})?",
        0..4,
    );
    proptest::collection::vec(one, 0..40).prop_map(|raw| {
        let mut entries: Vec<Entry> = raw
            .into_iter()
            .filter_map(|(path, object, size, mtime, exec, until, target, pick)| {
                let kind = if pick == 0 {
                    EntryKind::Symlink(LinkTarget::new(&target).ok()?)
                } else {
                    EntryKind::File(FileEntry {
                        object: ObjectId::from_bytes(object),
                        size,
                        mtime,
                        exec,
                    })
                };
                Some(Entry { path: TreePath::new(&path).ok()?, kind, until })
            })
            .collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let mut order = OrderGuard::default();
        entries.retain(|entry| {
            let before = (order.last.clone(), order.prefixes.clone(), order.count);
            let fits = order.check(&entry.path).is_ok();
            if !fits {
                (order.last, order.prefixes, order.count) = before;
            }
            fits
        });
        entries
    })
}

proptest! {
    #[test]
    fn written_manifest_reads_back_and_matches_serde_json(entries in entries()) {
        let (bytes, totals) = write(&entries).unwrap();
        let reader = ManifestReader::new(&bytes[..], Some(totals.manifest)).unwrap();
        let back: Vec<_> = reader.collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(&back, &entries);
        for line in std::str::from_utf8(&bytes).unwrap().lines() {
            #[derive(serde::Deserialize, serde::Serialize)]
            #[serde(deny_unknown_fields)]
            struct Line {
                #[serde(skip_serializing_if = "Option::is_none")] headwater: Option<String>,
                #[serde(skip_serializing_if = "Option::is_none")] version: Option<u32>,
                #[serde(skip_serializing_if = "Option::is_none")] path: Option<String>,
                #[serde(skip_serializing_if = "Option::is_none")] size: Option<u64>,
                #[serde(skip_serializing_if = "Option::is_none")] object: Option<String>,
                #[serde(skip_serializing_if = "Option::is_none")] mtime: Option<u64>,
                #[serde(skip_serializing_if = "Option::is_none")] exec: Option<bool>,
                #[serde(skip_serializing_if = "Option::is_none")] symlink: Option<String>,
                #[serde(skip_serializing_if = "Option::is_none")] until: Option<u64>,
            }
            let parsed: Line = serde_json::from_str(line).unwrap();
            prop_assert_eq!(serde_json::to_string(&parsed).unwrap(), line);
        }
    }

    #[test]
    fn accepted_manifest_is_canonical(
        line in "\\{\"path\":\"[ab/.\"\\\\]{0,4}\",\"symlink\":\"[ab/.\"]{0,4}\"\
                 (,\"until\":[0-9]{1,3})?\\}"
    ) {
        if let Ok(entry) = parse_entry_line(line.as_bytes(), 1) {
            let mut again = Vec::new();
            push_entry_line(&entry, &mut again);
            prop_assert_eq!(again, format!("{line}\n").into_bytes());
        }
    }
}
