//! Throughput of encoding and decoding blocks, and the time to group the content of a large bundle.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use headwater::pack::{
    BaseRange, EncodedBlock, Level, ObjectToPack, PackReader, PackWriter, Piece, encode_block,
    group,
};
use headwater::tree_path::TreePath;

const WORDS: [&str; 24] = [
    "content",
    "mirror",
    "release",
    "the",
    "of",
    "a",
    "is",
    "served",
    "every",
    "tree",
    "manifest",
    "pack",
    "object",
    "when",
    "then",
    "<code>",
    "</code>",
    "<a href=\"../index.html\">",
    "</a>",
    "slot",
    "current",
    "block",
    "and",
    "to",
];

/// Pages as a documentation generator makes them: a shared frame and words
/// that no page shares. `seed` changes about one word in a hundred.
fn pages(bytes: usize, seed: u64) -> Vec<u8> {
    let mut html = String::with_capacity(bytes + 8192);
    let (mut state, mut page) = (1u64, 0);
    while html.len() < bytes {
        html.push_str(
            "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><link \
                       rel=\"stylesheet\" ",
        );
        html.push_str(&format!(
            "href=\"/app.3fa9c1.css\"></head><body><nav>Guide</nav><h1>Page {page}</h1>\n"
        ));
        for word in 0..600 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let changed = if word % 100 == 7 { seed } else { 0 };
            let pick = (state >> 33).wrapping_add(changed) % WORDS.len() as u64;
            html.push_str(WORDS[usize::try_from(pick).unwrap_or(0)]);
            html.push(if word % 12 == 11 { '\n' } else { ' ' });
        }
        html.push_str("</body></html>\n");
        page += 1;
    }
    html.truncate(bytes);
    html.into_bytes()
}

fn block(content: &[u8], prefix: &[u8], level: Level) -> EncodedBlock {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a block is small");
    let piece = Piece { ordinal: 0, offset: 0, length: length(content) };
    let base = BaseRange { entry: 0, offset: 0, length: length(prefix) };
    let bases = if prefix.is_empty() { &[][..] } else { &[base] };
    encode_block(&[piece], content, bases, prefix, level).expect("a valid block")
}

fn blocks(criterion: &mut Criterion) {
    let (content, old) = (pages(4 << 20, 1), pages(4 << 20, 0));
    let cases = [
        ("raw 1 MiB", &content[..1 << 20], &[][..], Level::Raw),
        ("zstd -3 4 MiB", &content[..], &[][..], Level::Zstd(3)),
        ("zstd -3 1 MiB against 1 MiB", &content[..1 << 20], &old[..1 << 20], Level::Zstd(3)),
        ("zstd -3 64 KiB against 64 KiB", &content[..64 << 10], &old[..64 << 10], Level::Zstd(3)),
    ];
    let mut encode = criterion.benchmark_group("encode and prove");
    for (name, content, prefix, level) in cases {
        encode.throughput(Throughput::Bytes(content.len() as u64));
        encode.bench_function(name, |bencher| {
            bencher.iter(|| block(black_box(content), prefix, level));
        });
    }
    encode.finish();
    let mut decode = criterion.benchmark_group("open and decode");
    for (name, content, prefix, level) in cases {
        let block = block(content, prefix, level);
        let mut writer = PackWriter::new();
        writer.push(&block).expect("an empty pack has room");
        let pack = writer.finish();
        println!("{name}: {} bytes become {}", content.len(), block.encoded_bytes());
        decode.throughput(Throughput::Bytes(content.len() as u64));
        decode.bench_function(name, |bencher| {
            bencher.iter(|| {
                let reader = PackReader::open(black_box(&pack.bytes)).expect("a sound pack");
                let block = reader.blocks().next().expect("one block").expect("a sound block");
                block.decode(prefix).expect("a sound frame").len()
            });
        });
    }
    decode.finish();
}

fn grouping(criterion: &mut Criterion) {
    let paths: Vec<TreePath> = (0..1_000_000u32)
        .map(|index| {
            let name = ["index.html", "app", "page", "image"][index as usize % 4];
            let text = match name {
                "app" => format!(
                    "docs/v{}/assets/app.{:08x}.js",
                    index % 97,
                    index.wrapping_mul(2_654_435_761)
                ),
                "page" => format!("docs/v{}/guide/page-{index}.html", index % 97),
                "image" => format!("docs/v{}/img/figure{index}.png", index % 97),
                index_html => format!("docs/v{}/section{index}/{index_html}", index % 97),
            };
            TreePath::new(&text).expect("a valid path")
        })
        .collect();
    let member = |(ordinal, path)| ObjectToPack {
        ordinal,
        size: u64::from(ordinal % 20_000),
        path,
        base_bytes: 0,
    };
    let members: Vec<_> = (0..).zip(&paths).map(member).collect();
    let mut group_of = criterion.benchmark_group("group a million");
    group_of.sample_size(10);
    for level in [Level::Raw, Level::Zstd(3)] {
        let sizes = || group(black_box(&members), level).map(|pieces| pieces.len()).sum::<usize>();
        group_of.bench_function(level.to_string(), |bencher| {
            bencher.iter_batched(|| (), |()| sizes(), BatchSize::PerIteration);
        });
    }
    group_of.finish();
}

criterion_group!(benches, blocks, grouping);
criterion_main!(benches);
