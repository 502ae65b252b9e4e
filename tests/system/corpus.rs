//! The initial inputs of the fuzz targets: from fixtures, hand-written, and mutations of these.

use std::fs;
use std::path::Path;

use headwater::hash::{BundleKey, ContentId, HistoryId, ManifestId, ObjectId, PackId, StoreId};
use headwater::manifest::{Entry, ManifestReader, delta};
use headwater::pack::{
    BaseRange, Level, PackWriter, Piece, Signature, SignatureKey, SignatureShape, encode_block,
};
use headwater::protocol;
use headwater::release::Release;
use headwater::tree_path::Site;
use serde::Serialize;

use crate::fuzzing::{corpus, mutant};
use crate::targets::stream;
use crate::trees::Rng;

const MUTANTS: usize = 6;

type Inputs = Vec<Vec<u8>>;

#[test]
#[ignore = "adds inputs that are missing and touches none that is there"]
fn make_corpus() {
    let all: [(&str, Inputs); 12] = [
        ("banner", texts(&BANNERS)),
        ("config", texts(&CONFIGS)),
        ("format", texts(&FORMATS)),
        ("manifest", manifests()),
        ("message", messages()),
        ("pack", packs()),
        ("quota", quotas()),
        ("release", releases()),
        ("request", texts(&REQUESTS)),
        ("state", states()),
        ("token", texts(&TOKENS)),
        ("transit", changes()),
    ];
    for (name, mut inputs) in all {
        let (mut rng, originals) = (Rng::new(1), inputs.clone());
        inputs.extend((0..MUTANTS).map(|_| mutant(&originals, &mut rng)));
        fs::create_dir_all(corpus(name)).unwrap();
        for (index, input) in inputs.iter().enumerate() {
            let path = corpus(name).join(format!("{index:02}"));
            if !path.exists() {
                fs::write(path, input).unwrap();
            }
        }
    }
}

fn texts(all: &[&str]) -> Inputs {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)).unwrap()
}

fn manifests() -> Inputs {
    let mut all: Inputs = ["first", "second", "names"]
        .map(|name| fixture(&format!("manifests/v1-{name}.jsonl")))
        .into();
    all.extend(texts(&[
        "{\"headwater\":\"manifest\",\"version\":1}\n",
        "{\"headwater\":\"manifest\",\"version\":2}\n",
        "{\"headwater\":\"manifest\",\"version\":1}\n\
         {\"path\":\"a\",\"symlink\":\"b\",\"until\":1700000000}\n",
        "{\"headwater\":\"manifest\",\"version\":1}\n\
         {\"path\":\"a/l\",\"symlink\":\"../../out\"}\n",
    ]));
    all
}

fn entries(name: &str) -> Vec<Entry> {
    let bytes = fixture(&format!("manifests/v1-{name}.jsonl"));
    ManifestReader::new(&bytes[..], None).unwrap().map(Result::unwrap).collect()
}

/// Manifest deltas as transferred, and the content of their frames.
fn changes() -> Inputs {
    let names = ["nothing-to-first", "first-to-second", "second-to-names"];
    let mut all: Inputs = names.map(|name| fixture(&format!("manifests/v1-{name}.change"))).into();
    let (first, second) = (entries("first"), entries("second"));
    // Content that the base has at another path, twice.
    let mut moved = first.clone();
    for (index, entry) in second.iter().enumerate() {
        moved.push(Entry { path: format!("z{index}").parse().unwrap(), ..entry.clone() });
    }
    for (base, new) in [(&second, &first), (&first, &moved), (&moved, &first), (&first, &first)] {
        let change = delta::encode(
            || Ok(stream(base)),
            || Ok(stream(new)),
            Some(ManifestId::of(b"base")),
            1_700_000_000,
        );
        all.push(change.unwrap().bytes.to_vec());
    }
    all.push(fixture("manifests/v1-first-to-second-held.change"));
    let plain: Inputs = all.iter().map(|change| zstd::decode_all(&change[..]).unwrap()).collect();
    all.extend(plain);
    all
}

/// Deltas with a quota: one that suffices, and one that does not.
fn quotas() -> Inputs {
    let with =
        |quota: [u8; 2]| changes().into_iter().map(move |change| [&quota[..], &change].concat());
    let mut all: Inputs = with([23, 255]).chain(with([3, 4])).collect();
    // Few bytes that require much memory: long runs, and many new objects.
    let plain = |more: &[u8]| [b"HWMC\x01".as_slice(), &[0; 32], &[5], more].concat();
    let bombs = [
        &b"\xff\xff\xff\xff\x07\0"[..],
        b"\0\x01\xff\xff\xff\xff\x0f\0",
        b"\0\x02\xff\xff\xff\xff\x0f\0",
    ];
    all.extend(
        bombs
            .map(|bomb| [&[23, 255][..], &zstd::encode_all(&plain(bomb)[..], 3).unwrap()].concat()),
    );
    all.push([&[23, 255][..], &zstd::encode_all(&vec![0; 1 << 20][..], 3).unwrap()].concat());
    all
}

/// Responses to a state request.
fn states() -> Inputs {
    let honest = messages()
        .into_iter()
        .filter(|message| message.starts_with(b"{\"ok\":{\"headwater\""))
        .collect();
    let record = String::from_utf8(record().to_bytes()).unwrap();
    let of = |state: protocol::State| json(protocol::ResponseMessage::Ok(state));
    let made = vec![
        of(protocol::State {
            releases: vec![record.clone(), record.clone()],
            highest_sequence: 1,
            ..protocol::State::default()
        }),
        of(protocol::State { highest_sequence: u64::MAX, ..protocol::State::default() }),
        of(protocol::State { staged: Some(record), ..protocol::State::default() }),
    ];
    let hostile = [
        "{\"ok\":{}}",
        "{\"ok\":{\"releases\":[\"\",\"{}\",\"hw_0123abcd_5ec2e7\"],\
         \"headwater\":\"Bearer hw_0123abcd_5ec2e7\"}}",
        "{\"error\":{\"kind\":\"busy\",\"message\":\"\\u0068w_0123abcd_5ec2e7\"}}",
        "\"without an end ",
        "\"\\",
        "{\"ok\":[[[[[[[[[[[[[[[[[[",
        "<html><title>502 Bad Gateway</title>",
    ];
    [honest, made, texts(&hostile)].concat()
}

fn packs() -> Inputs {
    let words = b"the same words, the same words, the same words, the same words";
    let piece = |ordinal, offset, length| Piece { ordinal, offset, length };
    let base = [
        BaseRange { entry: 3, offset: 5, length: 62 },
        BaseRange { entry: 9, offset: 0, length: 62 },
    ];
    let blocks = [
        encode_block(&[piece(0, 0, 62)], words, &[], &[], Level::default()).unwrap(),
        encode_block(
            &[piece(1, 0, 60), piece(2, 7, 2)],
            words,
            &base,
            &words.repeat(2),
            Level::Zstd(19),
        )
        .unwrap(),
        encode_block(&[piece(3, 1 << 40, 62)], words, &[], &[], Level::Raw).unwrap(),
    ];
    let pack = |count: usize| {
        let mut writer = PackWriter::new();
        blocks[..count].iter().for_each(|block| writer.push(block).unwrap());
        writer.finish().bytes
    };
    let large =
        encode_block(&[piece(0, 0, 1 << 20)], &vec![b'x'; 1 << 20], &[], &[], Level::default())
            .unwrap();
    let mut writer = PackWriter::new();
    writer.push(&large).unwrap();
    let fixtures =
        ["packs/v1-raw.pack", "packs/v1-zstd-bases.pack", "packs/v1-dense-bases.pack"].map(fixture);
    [Vec::from(fixtures), vec![pack(0), pack(1), pack(2), pack(3), writer.finish().bytes]].concat()
}

fn record() -> Release {
    let (manifest, content) = (ManifestId::of(b"manifest"), ContentId::of(b"content"));
    Release::new(
        Site::new("docs").unwrap(),
        HistoryId::from_bytes([0x17; 16]),
        12,
        manifest,
        content,
    )
}

fn releases() -> Inputs {
    let plain = record();
    let mut full = record();
    full.created = 1_700_000_000;
    full.began = 1_699_999_999;
    full.until = Some(1_800_000_000);
    full.entries = 7;
    full.retired = 2;
    full.bytes = 9_007_199_254_740_991;
    full.rolled_back_to = Some(3);
    full.replaces = vec![HistoryId::from_bytes([1; 16]), HistoryId::from_bytes([2; 16])];
    full.note = Some("smörgås, \"quoted\"".to_owned());
    let name = plain.name().to_string();
    let spaced = String::from_utf8(plain.to_bytes()).unwrap().replace(':', ": ");
    vec![
        plain.to_bytes(),
        full.to_bytes(),
        name.clone().into(),
        format!("0{name}").into(),
        spaced.into(),
    ]
}

fn json(value: impl Serialize) -> Vec<u8> {
    serde_json::to_vec(&value).unwrap()
}

fn messages() -> Inputs {
    let (key, object) = (BundleKey::of(b"key"), ObjectId::of(b"object"));
    let (release, pack) = (record().name(), PackId::of(b"pack"));
    let record = String::from_utf8(record().to_bytes()).unwrap();
    let head = protocol::StageHead {
        release: record.clone(),
        key,
        base: None,
        change_bytes: 9,
        has_packs: true,
        is_whole: false,
    };
    let state = protocol::State {
        time: Some(1_700_000_000),
        headwater: "0.1.0".into(),
        store: Some(StoreId::random().unwrap()),
        site: Some(Site::new("docs").unwrap()),
        current: Some(release),
        releases: vec![record.clone()],
        staged: Some(record),
        highest_sequence: 12,
        free_bytes: Some(1 << 40),
        unfinished: Some(vec![key]),
        quota_bytes: Some(1 << 40),
        quota_entries: Some(1 << 20),
        incoming_bytes: 1 << 20,
        next_expiry: Some(1_900_000_000),
        expired_through: 1_800_000_000,
        may_push: true,
        unwritable: None,
        token_expires: Some(1_900_000_000),
    };
    let status = protocol::Status {
        site: Site::new("docs").unwrap(),
        sequence: Some(12),
        release: Some(release),
        published: Some(1),
        activated: None,
    };
    let wants = protocol::NeededContent {
        objects: vec![object],
        manifests: vec![ManifestId::of(b"m")],
        releases: vec![release],
    };
    let (key, shape) = (SignatureKey::from_bytes([3; 8]), SignatureShape::with_sizes(20, 3, 1));
    let asked = vec![(0, 14), (7, 20), (300, 33)];
    let question = protocol::SignatureRequest { base: ManifestId::of(b"base"), key, files: asked };
    let repairing = protocol::RepairResult {
        objects: 1,
        repaired_files: 2,
        needed: wants,
        ..protocol::RepairResult::default()
    };
    vec![
        json(&head),
        json(protocol::StageHead {
            base: Some(ManifestId::of(b"base")),
            has_packs: false,
            is_whole: true,
            ..head
        }),
        json(protocol::ResponseMessage::Ok(state)),
        json(protocol::ResponseMessage::Ok(protocol::StageResult::Staged { resent: 3 })),
        json(protocol::ResponseMessage::Ok(protocol::StageResult::Held(vec![pack]))),
        json(protocol::ResponseMessage::Ok(protocol::StageResult::Missing(vec![object]))),
        json(protocol::ResponseMessage::<protocol::State>::Error(protocol::ProtocolError::new(
            headwater::mirror::ErrorKind::Denied,
            "no\u{1b}[2J",
        ))),
        json(protocol::ResponseMessage::Ok(repairing)),
        json(protocol::ResponseMessage::Ok(protocol::Verified::default())),
        json(protocol::ResponseMessage::Ok(protocol::Pruned::default())),
        json(protocol::HeldObjects::of(&[true, false, true])),
        json(protocol::ResponseMessage::Ok(protocol::HeldObjects::of(&[false; 9]))),
        json(status),
        json(protocol::Activate { release, expected: Some(release) }),
        json(protocol::KeepReleases { keep: 3 }),
        json(protocol::Repair { is_last: true }),
        question.encode(),
        [&[1][..], Signature::of(&[b'x'; 20], shape, key).encode(), &[b'x'; 40]].concat(),
    ]
}

const BANNERS: [&str; 6] = [
    "headwater receive 1 {\"headwater\":\"0.1.0\",\"protocols\":[1],\"sites\":[]}\n",
    "Welcome!\r\nheadwater receive 1 {\"headwater\":\"0.1.0\",\"protocols\":[1,2],\
     \"sites\":[{\"directory\":\"/srv/www\",\"site\":\"docs\",\"base\":\"/docs/\"}]}\n",
    "{\"headwater\":\"0.1.0\",\"protocols\":[1],\"sites\":[{\"directory\":\"/\",\"base\":\"/\"}]}",
    "headwater receive 2 {}\n",
    "headwater receive 1 nonsense\nmore",
    "sh: headwater: command not found\n",
];

const CONFIGS: [&str; 5] = [
    "listen = \"127.0.0.1:8080\"\n[[site]]\nname = \"docs\"\npath = \"/srv/www\"\n",
    "behind_proxy = true\n[tls]\ncert = \"c.pem\"\nkey = \"k.pem\"\n[[site]]\nname = \"docs\"\n\
     path = \"w\"\n[[token]]\nid = \"0a1b2c3d\"\n\
     hash = \"af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262\"\n\
     sites = [\"docs\"]\nallow = \"push\"\n",
    "site = \"docs\"\ncontent = \"public\"\n[[mirror]]\nname = \"eu\"\n\
     url = \"https://edge.example/docs\"\ntoken_env = \"EU\"\n\
     proxy = \"http://proxy.example:3128\"\n[[mirror]]\nname = \"sh\"\n\
     url = \"ssh://me@edge2:2222/srv/www\"\n\
     host_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAA\"\n",
    "content = [\"a\", { path = \"b\", at = \"smörgås\" }]\nexclude = [\"*.map\"]\n[[mirror]]\n\
     name = \"x\"\npath = \"/m\"\n",
    "site = \"\u{1b}[2J\"\r\n[[mirror]\n",
];

const FORMATS: [&str; 5] = [
    "{\"headwater\":\"store\",\"version\":1,\"id\":\"0123456789abcdef0123456789abcdef\",\
     \"site\":\"default\"}\n",
    r#"{"site":"docs","id":"00000000000000000000000000000000","version":1,"headwater":"store"}"#,
    "{\"headwater\":\"store\",\"version\":2,\"id\":\"0123456789abcdef0123456789abcdef\",\
     \"site\":\"default\"}\n",
    "{\"headwater\":\"manifest\",\"version\":1}\n",
    "",
];

const TOKENS: [&str; 5] = [
    "hw_0a1b2c3d_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    " hw_0a1b2c3d_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n",
    "hw_0A1B2C3D_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "opaque.token-of~somebody+else/=",
    "two words",
];

const REQUESTS: [&str; 21] = [
    "v1/state",
    "status.json",
    "v1/manifests/af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    "v1/objects/af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    "v1/releases/12-9f3ac1d2e4b5a697",
    "v1/packs/0123456789abcdef0123456789abcdef/\
     af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    "v1/packs/af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262/\
     af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    "v1/activate",
    "v1/holds",
    "v1/signatures",
    "v1/../state",
    "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "PUT /x HTTP/1.1\r\nContent-Length: 3\r\n\r\n\n\n\nGET / HTTP/1.1\r\n\r\n",
    "PUT /x HTTP/1.1\r\ncontent-length:\t0 \r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n",
    "POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\n\n",
    "POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0a\r\n0123456789\r\n0\r\n\
     \r\nGET / HTTP/1.1\r\n\r\n",
    "POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\na: b\r\n\r\n",
    "POST /x HTTP/1.1\r\ntransfer-encoding: other\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.1\nhost: a\r\n\r\n",
    "PUT / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "PUT / HTTP/1.1\r\ncontent-length: 18446744073709551615\r\n\r\nabc",
];
