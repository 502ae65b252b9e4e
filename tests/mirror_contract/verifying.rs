//! Detection and repair of faults.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use headwater::mirror::Depth;
use headwater::monitor::SilentMonitor;

use crate::damage::{DAMAGES, Damage, StorePaths, flip_byte};
use crate::fixture::{Fixture, assert_serves, faults, tree_at, tree_of};
use crate::origin::{CompleteSource, Version, first_tree, second_tree};

/// Reads what is served of `version`, except `path`, until stopped; every read must succeed.
fn keep_reading(fixture: &impl Fixture, version: &Version, but: &str, stop: &AtomicBool) -> u64 {
    let mut rounds = 0;
    while !stop.load(Ordering::SeqCst) || rounds == 0 {
        for entry in version.entries.iter().filter(|entry| !but.ends_with(entry.path.as_str())) {
            let Some(file) = entry.file() else { continue };
            let path = fixture.store().join("current").join(entry.path.as_str());
            let content =
                fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let is_damaged = content != *version.objects[&file.object];
            assert!(!is_damaged, "{} was served damaged", entry.path);
        }
        rounds += 1;
    }
    rounds
}

/// Damages a store that has `before` and `current`, and repairs it while visitors read.
pub(crate) fn assert_found_and_mended(
    fixture: &impl Fixture,
    before: &Version,
    current: &Version,
    damage: &Damage,
) {
    let name = damage.name;
    let mirror = fixture.mirror();
    assert_eq!(faults(&*mirror), []);
    let harmed = (damage.harm)(&StorePaths { store: fixture.store(), current, before });
    let wanted = harmed.strip_prefix(fixture.store()).unwrap().to_str().unwrap().to_owned();
    let found = faults(&*mirror);
    assert!(
        found.iter().any(|fault| fault.path == wanted && fault.kind == damage.kind),
        "{name}: {found:?}"
    );
    // An open file prevents reuse of its inode.
    let damaged = fs::symlink_metadata(&harmed)
        .ok()
        .filter(fs::Metadata::is_file)
        .map(|_| (File::open(&harmed).unwrap(), fs::read(&harmed).unwrap()));
    let stop = AtomicBool::new(false);
    let archive = CompleteSource(vec![before.clone(), current.clone()]);
    let repaired = std::thread::scope(|scope| {
        // Files that share the damaged inode are served damaged before the repair and intact after
        // it.
        let shared: Vec<&str> = found.iter().map(|fault| fault.path.as_str()).collect();
        let but = shared.iter().find(|path| path.contains("/slots/")).copied().unwrap_or(&wanted);
        let reader = scope.spawn(|| keep_reading(fixture, current, but, &stop));
        let repaired = mirror.repair(&archive, &SilentMonitor);
        stop.store(true, Ordering::SeqCst);
        assert!(reader.join().unwrap() > 0);
        repaired.unwrap()
    });
    assert_eq!((&repaired.found, &repaired.remaining), (&found, &vec![]), "{name}");
    assert!(repaired.repaired_files + repaired.objects > 0, "{name}: {repaired:?}");
    if let Some((mut file, bytes)) = damaged {
        let mut now = Vec::new();
        file.read_to_end(&mut now).unwrap();
        assert!(now == bytes, "{name}: the file was repaired in place");
        let is_same =
            fs::metadata(&harmed).is_ok_and(|meta| meta.ino() == file.metadata().unwrap().ino());
        assert!(!is_same, "{name}: the file still has the same inode");
    }
    assert_serves(fixture, current);
    assert!(
        tree_at(&fixture.store().join(format!(".headwater/slots/{}", before.name())))
            == tree_of(before),
        "{name}"
    );
    assert!(mirror.repair(&archive, &SilentMonitor).unwrap().found.is_empty(), "{name}");
}

pub(crate) fn every_fault_is_found_and_repaired<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    for damage in &DAMAGES {
        let fixture = F::with(&[&first, &second]);
        assert_found_and_mended(&fixture, &first, &second, damage);
    }
}

pub(crate) fn quick_verify_finds_changed_times_and_sizes<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    for damage in &DAMAGES {
        let fixture = F::with(&[&first, &second]);
        let quick = || fixture.mirror().verify(Depth::Quick, &SilentMonitor).unwrap().faults;
        assert_eq!(quick(), []);
        (damage.harm)(&StorePaths { store: fixture.store(), current: &second, before: &first });
        assert!(!damage.is_quick || !quick().is_empty(), "{}", damage.name);
    }
}

pub(crate) fn unrepairable_fault_is_left_and_named<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let fixture = F::with(&[&first, &second]);
    let mirror = fixture.mirror();
    let object = second.file("app.js").object;
    flip_byte(&fixture.object_path(&object), 50);
    fs::remove_file(fixture.object_path(&second.file("img/new.bin").object)).unwrap();
    let mut poor = second.clone();
    poor.objects.remove(&object);
    let repaired = mirror.repair(&CompleteSource(vec![poor]), &SilentMonitor).unwrap();
    assert_eq!(repaired.objects, 1, "the other object is repaired");
    assert!(
        repaired.remaining.iter().all(|fault| fault.object == Some(object)),
        "{:?}",
        repaired.remaining
    );
    assert_eq!(repaired.remaining, faults(&*mirror));
    assert!(!repaired.remaining.is_empty());
    let repaired = mirror.repair(&CompleteSource(vec![second.clone()]), &SilentMonitor).unwrap();
    assert_eq!(repaired.remaining, []);
    assert_serves(&fixture, &second);
}

pub(crate) fn lost_slot_is_rebuilt<F: Fixture>() {
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    for version in [&second, &first] {
        let fixture = F::with(&[&first, &second]);
        fs::remove_dir_all(fixture.store().join(format!(".headwater/slots/{}", version.name())))
            .unwrap();
        let mirror = fixture.mirror();
        assert_eq!(mirror.state().unwrap().current, Some(second.name()));
        if version.name() == second.name() {
            assert!(!faults(&*mirror).is_empty());
        }
        let repaired = mirror
            .repair(&CompleteSource(vec![first.clone(), second.clone()]), &SilentMonitor)
            .unwrap();
        assert_eq!(repaired.remaining, []);
        assert_serves(&fixture, &second);
        // Whichever slot was lost, the next push succeeds.
        let third = first_tree().release(3);
        third.bundle_from(Some(&second)).publish(&*mirror, Some(second.name()));
        assert_serves(&fixture, &third);
    }
}
