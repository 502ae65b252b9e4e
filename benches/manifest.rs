//! Time to write, read, compare and change a manifest of a million entries.

use std::collections::HashMap;
use std::hint::black_box;
use std::io;
use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use headwater::hash::ObjectId;
use headwater::manifest::{
    Entry, EntryKind, FileEntry, ManifestError, ManifestReader, ManifestWriter, delta, diff,
};
use headwater::tree_path::TreePath;

const ENTRIES: u32 = 1_000_000;
/// One entry in so many is changed.
const CHANGED: u32 = 100;

/// A site with versions of its pages; `build` changes one entry in a hundred.
fn entries(build: u64) -> Vec<Entry> {
    let entry = |index: u32| {
        let path = format!(
            "docs/v{:02}/section-{:03}/page-{:04}.html",
            index / 20_000,
            index / 1000 % 20,
            index % 1000
        );
        let changed = if index % CHANGED == 7 { build } else { 0 };
        let object = ObjectId::of(format!("{index} {changed}").as_bytes());
        let file = FileEntry {
            object,
            size: u64::from(index % 50_000),
            mtime: 1_763_800_000 + changed,
            exec: false,
        };
        Entry {
            path: TreePath::new(&path).expect("a valid path"),
            kind: EntryKind::File(file),
            until: None,
        }
    };
    (0..ENTRIES).map(entry).collect()
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut writer = ManifestWriter::new(Vec::new());
    entries.iter().for_each(|entry| writer.push(entry).expect("entries in order"));
    writer.finish().expect("memory takes it").0
}

fn read(bytes: &[u8]) -> ManifestReader<&[u8]> {
    ManifestReader::new(bytes, None).expect("a manifest")
}

fn coding(group: &mut BenchmarkGroup<'_, WallTime>, old: &[Entry], bytes: &[u8]) {
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            let mut writer = ManifestWriter::new(io::sink());
            black_box(old).iter().for_each(|entry| writer.push(entry).expect("entries in order"));
            writer.finish().expect("a sink takes it").1
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| read(black_box(bytes)).filter(Result::is_ok).count());
    });
}

fn manifest(criterion: &mut Criterion) {
    let (old, new) = (entries(0), entries(1));
    let (old_bytes, new_bytes) = (encode(&old), encode(&new));
    println!("{ENTRIES} entries: {} bytes", old_bytes.len());
    let mut group = criterion.benchmark_group("manifest of a million");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(5));
    group.throughput(Throughput::Elements(u64::from(ENTRIES)));
    coding(&mut group, &old, &old_bytes);
    group.bench_function("diff, 1 % changed", |bencher| {
        bencher.iter(|| {
            diff(read(&old_bytes), read(&new_bytes)).expect("two manifests").changes.len()
        });
    });
    let change =
        || delta::encode(|| Ok(read(&old_bytes)), || Ok(read(&new_bytes)), None, 1_763_800_001);
    let change_bytes = change().expect("two manifests");
    println!("1 % changed: {} bytes travel", change_bytes.bytes.len());
    group.bench_function("encode change, 1 % changed", |bencher| {
        bencher.iter(|| change().expect("two manifests").bytes.len());
    });
    let ids: Vec<_> =
        change_bytes.wanted.iter().map(|wanted| (wanted.object, wanted.size)).collect();
    group.bench_function("apply change, 1 % changed", |bencher| {
        let apply = || -> Result<_, ManifestError> {
            Ok(delta::apply(
                &*change_bytes.bytes,
                read(&old_bytes),
                &ids,
                &HashMap::new(),
                io::sink(),
            )?
            .1)
        };
        bencher.iter(|| apply().expect("the change fits its base").entries);
    });
    group.finish();
}

criterion_group!(benches, manifest);
criterion_main!(benches);
