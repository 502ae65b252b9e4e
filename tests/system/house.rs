//! Coding rules that no lint checks, by a scan of the source text.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Returns the files below `directory` with this ending, by their path from the root of the crate.
fn files(directory: &str, ending: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    collect(&Path::new(ROOT).join(directory), ending, &mut found);
    found
}

fn collect(directory: &Path, ending: &str, found: &mut BTreeMap<String, String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, ending, found);
        } else if path.to_str().unwrap().ends_with(ending) {
            let name = path.strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned();
            found.insert(name, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned());
        }
    }
}

fn sources() -> BTreeMap<String, String> {
    files("src", ".rs")
}

/// Returns the numbered lines of production code: without comments, and up to the test module.
fn production(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    numbered
        .take_while(|(_, line)| *line != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn is_test(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.ends_with("/testing.rs") || file.contains("/tests/")
}

fn is_library(file: &str) -> bool {
    file != "src/main.rs" && !file.starts_with("src/cli/")
}

/// Returns the lines of production code with one of these words, in files for which `of` returns
/// true.
fn lines_with(of: impl Fn(&str) -> bool, words: &[&str]) -> Vec<String> {
    lines_of(&sources(), of, words)
}

fn lines_of(
    sources: &BTreeMap<String, String>,
    of: impl Fn(&str) -> bool,
    words: &[&str],
) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in sources.iter().filter(|(file, _)| of(file) && !is_test(file)) {
        for (number, line) in production(text) {
            if words.iter().any(|word| says(line, word)) {
                found.push(format!("{file}:{number}: {}", line.trim()));
            }
        }
    }
    found
}

/// Whether `line` contains `word` and not only as the end of a longer word.
fn says(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !word.starts_with(char::is_alphabetic)
            || !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[track_caller]
fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_file_starts_with_a_module_comment() {
    let others = ["tests", "benches", "fuzz/fuzz_targets"].map(|directory| files(directory, ".rs"));
    let all = sources().into_iter().chain(others.into_iter().flatten());
    let silent = all.filter(|(_, text)| !text.starts_with("//!") && !text.starts_with("#![doc"));
    assert_none(&silent.map(|(file, _)| file).collect::<Vec<_>>());
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for (file, text) in sources().into_iter().chain(files("tests", ".rs")) {
        let (all, own) =
            (text.lines().count(), text.lines().take_while(|line| *line != "#[cfg(test)]").count());
        if all > 900 || own > 600 {
            long.push(format!("{file}: {all} lines, {own} without its tests"));
        }
    }
    assert_none(&long);
}

#[test]
fn lines_have_at_most_100_columns() {
    let mut found = Vec::new();
    for directory in ["src", "tests", "benches", "fuzz/fuzz_targets"] {
        for (file, text) in files(directory, ".rs") {
            let long = text.lines().enumerate().filter(|(_, line)| line.chars().count() > 100);
            found.extend(long.map(|(index, line)| format!("{file}:{}: {line}", index + 1)));
        }
    }
    assert_none(&found);
}

#[test]
fn functions_are_short() {
    assert_none(&long_functions(&sources()));
}

fn long_functions(sources: &BTreeMap<String, String>) -> Vec<String> {
    let mut long = Vec::new();
    for (file, text) in sources.iter().filter(|(file, _)| !is_test(file)) {
        let mut open: Option<(usize, &str)> = None;
        for (number, line) in production(text) {
            let indent = &line[..line.len() - line.trim_start().len()];
            let is_head =
                line.trim_start().trim_start_matches("pub").contains("fn ") && !line.ends_with(';');
            match open {
                None if is_head && !line.ends_with('}') => open = Some((number, indent)),
                Some((from, of)) if line.strip_prefix(of) == Some("}") => {
                    if number - from > 70 {
                        long.push(format!("{file}:{from}: {} lines", number - from));
                    }
                    open = None;
                }
                _ => {}
            }
        }
    }
    long
}

/// Words that the glossary in `docs/architecture.md` replaces by the usual term.
const BANNED: [&str; 11] = [
    "desk", "crew", "seat", "passage", "trouble", "heard", "told", "stranger", "shunned",
    "takings", "snapshot",
];

/// Returns the name that a line declares, in lower case: that of a function, a type or a module.
fn declared(line: &str) -> Option<String> {
    let mut words =
        line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    words.find(|word| ["fn", "struct", "enum", "trait", "type", "mod"].contains(word))?;
    words.next().map(str::to_lowercase)
}

#[test]
fn names_avoid_banned_words() {
    let mut found = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| !is_test(file)) {
        for (number, line) in production(text) {
            let name = declared(line).unwrap_or_default();
            if BANNED.iter().any(|word| name.split('_').any(|part| part == *word)) {
                found.push(format!("{file}:{number}: {}", line.trim()));
            }
        }
    }
    assert_none(&found);
    assert_eq!(declared("    pub(super) fn a_desk(&self) {").as_deref(), Some("a_desk"));
}

#[test]
fn production_does_not_unwrap() {
    assert_none(&lines_with(|_| true, &[".unwrap()", "todo!(", "unimplemented!(", "dbg!("]));
}

#[test]
fn library_does_not_print_exit_or_read_the_environment() {
    let words = [
        "println!",
        "eprintln!",
        "print!",
        "eprint!",
        "std::env",
        "env::var",
        "env::args",
        "process::exit",
    ];
    assert_none(&lines_with(is_library, &words));
    assert_none(&lines_with(
        is_library,
        &["clap", "indicatif", "anstream", "clap_complete", "clap_mangen"],
    ));
}

#[test]
fn only_one_file_opens_the_standard_streams() {
    let is_other =
        |path: &str| path.starts_with("src/cli/") && path != "src/cli/output/terminal.rs";
    assert_none(&lines_with(
        is_other,
        &["stdout()", "stderr()", "println!", "print!", "eprintln!", "eprint!", "dbg!"],
    ));
}

#[test]
fn pure_rooms_do_not_use_files_sockets_or_clocks() {
    let words =
        ["std::fs", "std::net", "std::time", "std::process", "SystemTime", "Instant", "File::"];
    let is_pure = |file: &str| {
        let rooms = ["src/manifest/", "src/pack/", "src/push/plan.rs", "src/protocol/"];
        rooms.iter().any(|room| file.starts_with(room))
    };
    assert_none(&lines_with(is_pure, &words));
    let stricter = |file: &str| is_pure(file) && !file.starts_with("src/pack/");
    assert_none(&lines_with(stricter, &["crate::fsx", "fsx::"]));
}

/// The level of a room: it may import rooms of its own level and of lower levels.
fn level(room: &str) -> usize {
    match room {
        "command" | "fsx" | "web" => 1,
        "manifest" | "pack" | "release" => 2,
        "cache" | "scan" | "store" | "protocol" | "notify" => 3,
        "mirror" => 4,
        "origin" | "receiver" => 5,
        "packing" => 6,
        "push" => 7,
        "fleet_status" | "config" => 8,
        "cli" | "main" => 9,
        // Ids and similar types: imported everywhere, they import only each other.
        _ => 0,
    }
}

fn room(path: &str) -> &str {
    path.split(['/', ':', '.', '{', ';', ',']).next().unwrap_or_default()
}

#[test]
fn imports_point_one_way() {
    assert_none(&wrong_imports(&sources()));
}

fn wrong_imports(sources: &BTreeMap<String, String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (file, text) in sources {
        let own = room(file.strip_prefix("src/").unwrap());
        if own == "lib" || is_test(file) {
            continue;
        }
        for (number, line) in production(text) {
            for (at, _) in line.match_indices("crate::") {
                let other = room(&line[at + "crate::".len()..]);
                if level(other) > level(own) {
                    wrong.push(format!("{file}:{number}: {own} imports {other}"));
                }
            }
        }
    }
    wrong
}

#[test]
fn push_and_receiver_import_neither_each_other_nor_concrete_mirrors() {
    let concrete = [
        "mirror::local",
        "mirror::http",
        "mirror::ssh",
        "DirectoryMirror",
        "HttpMirror",
        "crate::store",
    ];
    let is_push = |file: &str| file.starts_with("src/push/");
    let is_receiver = |file: &str| file.starts_with("src/receiver/");
    assert_none(&lines_with(is_push, &concrete));
    assert_none(&lines_with(is_push, &["crate::receiver"]));
    assert_none(&lines_with(is_receiver, &concrete[..5]));
    assert_none(&lines_with(is_receiver, &["crate::push"]));
}

#[test]
fn only_the_receiver_uses_async_libraries() {
    let is_elsewhere = |file: &str| !file.starts_with("src/receiver/");
    assert_none(&lines_with(
        is_elsewhere,
        &["tokio::", "hyper::", "hyper_util::", "http_body_util::"],
    ));
    assert_none(&lines_with(
        |file| file.starts_with("src/receiver/"),
        &["ureq::", "crate::config"],
    ));
}

#[test]
fn sources_have_no_unsafe_code_and_no_uninterruptible_sleep() {
    assert_none(&lines_with(|_| true, &["unsafe {", "unsafe fn"]));
    let may_sleep = |file: &str| file.starts_with("src/fsx") || file == "src/cancel.rs";
    assert_none(&lines_with(
        |file| is_library(file) && !may_sleep(file),
        &["thread::sleep", "park_timeout", "never::<"],
    ));
}

#[test]
fn only_listed_files_use_http_or_start_processes() {
    let is_remote = |file: &str| {
        file.starts_with("src/mirror/http/")
            || file.starts_with("src/mirror/ssh/")
            || file == "src/web.rs"
    };
    assert_none(&lines_with(|file| !is_remote(file), &["ureq"]));
    let may_start = |file: &str| {
        let of_others = ["src/receiver/sites/hook.rs", "src/command.rs"];
        file.starts_with("src/mirror/ssh/") || of_others.contains(&file)
    };
    assert_none(&lines_with(
        |file| is_library(file) && !may_start(file),
        &["process::Command", "Command::new("],
    ));
    assert_none(&lines_with(|file| file.starts_with("src/mirror/"), &["crate::receiver"]));
}

#[test]
fn every_fixture_is_used_by_a_test() {
    let code: String = sources().into_values().chain(files("tests", ".rs").into_values()).collect();
    let mut unused = Vec::new();
    for file in files("fixtures", "").into_keys() {
        let inner = file.strip_prefix("fixtures/").unwrap();
        // A store or a tree is used by its directory.
        let is_named = inner.split('/').any(|part| code.contains(part));
        if !is_named {
            unused.push(file);
        }
    }
    assert_none(&unused);
}

#[test]
fn docs_show_the_installed_systemd_unit() {
    let read = |file: &str| fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
    let page = read("docs/receivers.md");
    let unit = read(".ci/debian/headwater.service");
    let block = format!("```ini\n# /etc/systemd/system/headwater.service\n{unit}```\n");
    assert!(page.contains(&block), "docs/receivers.md prints another headwater.service");
}

#[test]
fn readme_is_short() {
    let bytes = fs::metadata(Path::new(ROOT).join("README.md")).unwrap().len();
    assert!(bytes <= 8192, "README.md has {bytes} bytes of 8192; move long parts to docs/");
}

#[test]
fn commented_serve_toml_has_only_known_keys() {
    let text = fs::read_to_string(Path::new(ROOT).join(".ci/debian/serve.toml")).unwrap();
    let is_setting = |line: &&str| {
        line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
    };
    let settings: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# ")).filter(is_setting).collect();
    assert!(settings.len() >= 14, "{settings:?}");
    let file = Path::new("/etc/headwater/serve.toml");
    headwater::config::serve::parse(&settings.join("\n"), file)
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn ci_jobs_and_action_name_the_current_version() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, words) in [
        (
            "README.md",
            [format!("headwater_{version}_amd64.deb"), format!("OWNER/headwater@v{version}")],
        ),
        (
            "docs/ci.md",
            [format!("headwater_{version}_amd64.deb"), format!("OWNER/headwater@v{version}")],
        ),
        ("action.yml", [format!("default: {version}\n"), "headwater push".to_owned()]),
    ] {
        let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        assert!(words.iter().all(|word| text.contains(word)), "{file} lacks one of {words:?}");
    }
}

#[test]
fn source_scan_finds_planted_violations() {
    let body = "    step();\n".repeat(71);
    let text = format!(
        "//! A room.\nuse crate::push::Plan;\n// .unwrap()\nfn long() {{\n{body}}}\n\
         fn short() {{\n    eprintln!(\"{{}}\", x.unwrap());\n}}\n#[cfg(test)]\n\
         mod tests {{ y.unwrap() }}\n"
    );
    let sources = BTreeMap::from([("src/store/mod.rs".to_owned(), text)]);
    assert_eq!(long_functions(&sources), ["src/store/mod.rs:4: 72 lines"]);
    assert_eq!(wrong_imports(&sources), ["src/store/mod.rs:2: store imports push"]);
    let number = |words: &[&str]| lines_of(&sources, is_library, words).len();
    assert_eq!((number(&[".unwrap()"]), number(&["eprintln!"]), number(&["println!"])), (1, 1, 0));
}
