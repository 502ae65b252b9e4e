//! Time to scan 20,000 small files, with and without a stat cache.

use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use headwater::monitor::SilentMonitor;
use headwater::scan::{Root, ScanOptions, Tree};

const DIRECTORIES: usize = 200;
const FILES_EACH: usize = 100;

fn fill(root: &Path) {
    for directory in 0..DIRECTORIES {
        let path = root.join(format!("section-{:02}/part-{directory:03}", directory % 20));
        std::fs::create_dir_all(&path).expect("a temporary directory takes directories");
        for file in 0..FILES_EACH {
            let text = format!("<p>{directory} {file}</p>\n").repeat(40);
            std::fs::write(path.join(format!("page-{file:03}.html")), text)
                .expect("it takes files");
        }
    }
}

fn scan(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("there is a temporary directory");
    let tree = dir.path().join("tree");
    fill(&tree);
    // Stamps from the last moments are racy and would be read again.
    std::thread::sleep(Duration::from_millis(50));
    let roots = [Root { path: tree, tree_prefix: None }];
    let cold = ScanOptions::default();
    let warm = ScanOptions { stat_cache: Some(dir.path().join("cache")), ..ScanOptions::default() };
    let run = |options: &ScanOptions| {
        Tree::scan(&roots, options, &SilentMonitor).expect("the tree is good")
    };
    run(&warm);
    let again = run(&warm);

    let mut group = criterion.benchmark_group("scan of 20,000 files");
    group.sample_size(20);
    group.bench_function("cold", |bencher| bencher.iter(|| run(&cold)));
    group.bench_function("warm", |bencher| bencher.iter(|| run(&warm)));
    group.bench_function("recheck", |bencher| {
        bencher.iter(|| again.recheck(&SilentMonitor).expect("nothing changed"));
    });
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);
