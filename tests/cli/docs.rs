//! Runs the console blocks in README.md and docs/, and compares the pages that repeat program
//! output with that output.
//!
//! Each page has its own directory with the site of `fixtures/site` in `public`, and the empty
//! directories `/srv` and `/data`. A command must print the lines that follow it; a line `…`
//! matches any lines. Times, free space, ids and the names of users may differ.
//! `<!-- not run: REASON -->` before a block skips it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::Workspace;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const REGENERATE: &str = "HEADWATER_WRITE_DOCS=1 cargo test --locked --test cli docs::";

fn read(page: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// Returns README.md and the pages in docs/, by path.
fn pages() -> Vec<String> {
    let docs = fs::read_dir(Path::new(ROOT).join("docs")).unwrap();
    let mut pages: Vec<String> = docs
        .map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()))
        .collect();
    pages.push("README.md".to_owned());
    pages.sort();
    pages
}

/// A fenced block: its language, its text, and the line before it.
struct Block {
    language: String,
    text: String,
    before: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut before = "";
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let inside: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(Block {
                language: language.to_owned(),
                text: inside.join("\n"),
                before: before.to_owned(),
            });
        }
        before = line;
    }
    blocks
}

/// A command of a console block with the lines that it prints.
struct Step {
    command: String,
    expected: Vec<String>,
}

fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => {
                steps.push(Step { command: command.to_owned(), expected: Vec::new() });
            }
            (None, Some(step)) if step.command.ends_with('\\') => {
                step.command.pop();
                step.command.push_str(line.trim_start());
            }
            (None, Some(step)) => step.expected.push(line.to_owned()),
            (None, None) => panic!("a console block must start with `$ `: {line}"),
        }
    }
    steps
}

/// Removes from a line what differs between runs: free space, times, durations, ids, users, column
/// widths.
fn masked(line: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in line.replace("just now", "0 s ago").split_whitespace() {
        let bare = word.trim_end_matches([',', ';', ':']);
        let is_number =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
        let unit = match bare {
            "GB" | "TB" => Some("SPACE"),
            "ms" | "s" | "min" => Some("TIME"),
            _ => None,
        };
        let number = words.last_mut().filter(|number| is_number(number));
        if let (Some(unit), Some(number)) = (unit, number) {
            // The unit differs, too.
            *number = word.replace(bare, unit);
            continue;
        }
        let is_time = bare.len() == 20 && bare.ends_with('Z') && bare.as_bytes()[10] == b'T';
        let is_user = word.contains('@') && !word.contains(['/', ':']);
        if is_user {
            words.push("USER".to_owned());
            continue;
        }
        words.push(if is_time { word.replace(bare, "T") } else { without_ids(word) });
    }
    words.join(" ")
}

/// Returns the word with `H` in place of each run of 16 or more hexadecimal digits.
fn without_ids(word: &str) -> String {
    let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let mut rest = word;
    let mut text = String::new();
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c| !is_digit(c)).unwrap_or(rest.len());
        let (taken, kept) = rest.split_at(length.max(first.len_utf8()));
        text.push_str(if length >= 16 { "H" } else { taken });
        rest = kept;
    }
    text
}

/// Whether the lines before the first `…` are the first ones, and those after the last `…` the last
/// ones. Mirrors report in any order, so each part is compared as a set.
fn is_as_expected(expected: &[String], printed: &str) -> bool {
    let found: Vec<String> = printed.lines().map(masked).collect();
    let wanted: Vec<String> = expected.iter().map(|line| masked(line)).collect();
    let parts: Vec<&[String]> = wanted.split(|line| line == "…").collect();
    let sorted = |lines: &[String]| {
        let mut lines = lines.to_vec();
        lines.sort();
        lines
    };
    let [first, middle @ .., last] = &*parts else { return sorted(&wanted) == sorted(&found) };
    let Some(left) = found.len().checked_sub(first.len() + last.len()) else { return false };
    let (begin, rest) = found.split_at(first.len());
    let (between, end) = rest.split_at(left);
    sorted(first) == sorted(begin)
        && sorted(last) == sorted(end)
        && middle.iter().flat_map(|part| part.iter()).all(|line| between.contains(line))
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs the blocks of a page in order. Returns the number of commands, and the differences.
fn run_page(page: &str) -> (usize, Vec<String>) {
    let workspace = Workspace::new();
    copy_tree(&Path::new(ROOT).join("fixtures/site"), &workspace.path("public"));
    ["srv", "data", "home"].iter().for_each(|directory| workspace.mkdir(directory));
    let root = workspace.path("").to_str().unwrap().trim_end_matches('/').to_owned();
    let all = blocks(&read(page));
    let run = all
        .iter()
        .filter(|block| block.language == "console" && !block.before.starts_with("<!-- not run: "));
    let mut count = 0;
    let mut wrong = Vec::new();
    for step in run.flat_map(|block| steps(&block.text)) {
        count += 1;
        let mut line = format!("{{ {}; }} 2>&1", step.command);
        for place in ["/srv", "/data"] {
            line = line.replace(&format!(" {place}"), &format!(" {root}{place}"));
        }
        let output = workspace.shell(&line).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap().replace(&root, "");
        let may_fail = step
            .expected
            .iter()
            .any(|line| line.starts_with("error: ") || line.starts_with("hint: "));
        if !is_as_expected(&step.expected, &printed) || output.status.success() == may_fail {
            wrong.push(format!("{page}: $ {}\n{printed}({})\n", step.command, output.status));
        }
    }
    (count, wrong)
}

#[test]
fn console_blocks_print_the_documented_output() {
    let results: Vec<_> = pages().iter().map(|page| run_page(page)).collect();
    let wrong: Vec<String> = results.iter().flat_map(|(_, wrong)| wrong.clone()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let count: usize = results.iter().map(|(count, _)| count).sum();
    assert!(count >= 18, "only {count} commands were found");
}

#[test]
fn block_that_is_not_run_gives_a_reason() {
    for page in pages() {
        for block in blocks(&read(&page)) {
            if let Some(reason) = block.before.strip_prefix("<!-- not run: ") {
                assert!(reason.ends_with(" -->") && reason.len() > 12, "{page}: {}", block.before);
                assert_eq!(block.language, "console", "{page}: {}", block.before);
            }
        }
    }
}

/// Compares the part of `page` after `marker` with `generated`, or rewrites that part on request.
fn assert_generated(page: &str, marker: &str, generated: &str) {
    let text = read(page);
    let (head, tail) = text.split_once(marker).unwrap_or_else(|| panic!("{page} lacks {marker}"));
    if std::env::var_os("HEADWATER_WRITE_DOCS").is_some() {
        fs::write(Path::new(ROOT).join(page), format!("{head}{marker}{generated}")).unwrap();
        return;
    }
    assert!(tail == generated, "{page} is stale; regenerate it with: {REGENERATE}");
}

/// Returns the subcommands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let (_, list) = help.split_once("\nCommands:\n").unwrap_or_default();
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names =
        lines.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Returns each command below `path` with its help text.
fn help_texts(workspace: &Workspace, path: &[String]) -> Vec<(String, String)> {
    let args: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
    let help = workspace.args(&args).code(0).stdout;
    let mut texts = vec![([&["headwater".to_owned()], path].concat().join(" "), help.clone())];
    for name in subcommands(&help) {
        texts.extend(help_texts(workspace, &[path, &[name]].concat()));
    }
    texts
}

#[test]
fn commands_page_matches_the_help_output() {
    let mut generated = String::new();
    for (command, help) in help_texts(&Workspace::new(), &[]) {
        let lines: String = help.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        write!(generated, "\n## {command}\n\n```text\n{lines}```\n").unwrap();
    }
    assert!(generated.matches("\n## ").count() >= 24);
    assert_generated("docs/commands.md", "<!-- generated below this line -->\n", &generated);
}

#[test]
fn configuration_page_has_the_file_that_init_writes() {
    let workspace = Workspace::new();
    workspace.ok("init");
    let generated = format!("\n```toml\n{}```\n", workspace.read("headwater.toml"));
    assert_generated("docs/configuration.md", "<!-- generated below this line -->\n", &generated);
}

#[test]
fn configurations_in_the_docs_have_only_known_keys() {
    let mut count = 0;
    for page in pages() {
        let toml = blocks(&read(&page)).into_iter().filter(|block| block.language == "toml");
        for block in toml.filter(|block| block.text.starts_with("# headwater.toml")) {
            count += 1;
            let path = PathBuf::from(format!("/site/{page}/headwater.toml"));
            headwater::config::Config::parse(&block.text, &path)
                .unwrap_or_else(|error| panic!("{page}: {error}\n{}", block.text));
        }
    }
    assert!(count >= 6, "only {count} files were found");
}

/// Returns the commands of console and shell blocks, each with the words after `headwater`.
fn printed_commands(text: &str) -> Vec<String> {
    let shell = blocks(text)
        .into_iter()
        .filter(|block| ["console", "sh"].contains(&block.language.as_str()));
    let lines: Vec<String> = shell
        .flat_map(|block| {
            block.text.replace("\\\n", "").lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    let commands =
        lines.iter().filter_map(|line| line.trim_start_matches("$ ").strip_prefix("headwater "));
    commands.map(|line| line.split(" #").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn commands_in_the_docs_use_existing_flags() {
    let help = help_texts(&Workspace::new(), &[]);
    for page in pages() {
        for line in printed_commands(&read(&page)) {
            let fits = |(command, _): &&(String, String)| {
                format!("headwater {line} ").starts_with(&format!("{command} "))
            };
            let (command, text) = help.iter().rfind(fits).unwrap();
            let is_flag = |word: &&str| word.starts_with("--");
            for flag in
                line.split_whitespace().filter(is_flag).map(|word| word.split('=').next().unwrap())
            {
                assert!(text.contains(flag), "{page}: `{command}` has no {flag}: {line}");
            }
            assert!(
                *command != "headwater" || line.starts_with('-'),
                "{page}: unknown command: {line}"
            );
        }
    }
}

/// Returns a source text in which string literals continued on the next line are joined.
fn without_line_breaks(source: &str) -> String {
    let mut parts = source.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |joined, part| joined + part.trim_start())
}

#[test]
fn hints_name_existing_headings() {
    let mut count = 0;
    for file in ["src/cli/output/hints.rs", "src/cli/setup/mirror_factory.rs"] {
        let text = without_line_breaks(&read(file));
        for (at, _) in text.match_indices("\\\" in docs/") {
            count += 1;
            let heading = text[..at].rsplit("\\\"").next().unwrap();
            let page = text[at..].split("in ").nth(1).unwrap().split(".md").next().unwrap();
            assert!(
                anchors(&read(&format!("{page}.md"))).contains(&anchor(heading)),
                "{file}: {heading} in {page}.md"
            );
        }
    }
    assert_eq!(count, 2);
}

/// Returns the anchor that GitHub gives to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

fn anchors(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

#[test]
fn links_between_pages_resolve() {
    let mut count = 0;
    for page in pages() {
        let text = read(&page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("https://") {
                continue;
            }
            count += 1;
            let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
            let directory = Path::new(&page).parent().unwrap();
            let target = if file.is_empty() { PathBuf::from(&page) } else { directory.join(file) };
            assert!(Path::new(ROOT).join(&target).exists(), "{page}: {link}");
            let is_there = wanted.is_empty()
                || anchors(&read(target.to_str().unwrap())).iter().any(|name| name == wanted);
            assert!(is_there, "{page}: no heading for {link}");
        }
    }
    assert!(count >= 20, "only {count} links were found");
}

/// The identifiers and paths in backticks on a page.
fn code_spans(text: &str) -> Vec<&str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The text of each Rust file below `directory`, with the name of its module first.
fn rust_files(directory: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let named = if path.ends_with("mod.rs") { path.parent().unwrap() } else { &path };
            let module = named.file_stem().unwrap().to_str().unwrap();
            files.push(format!("mod {module} ;\n{}", fs::read_to_string(&path).unwrap()));
        }
    }
    files
}

/// Whether `text` declares `name`: as an item, a method, a field or a variant.
fn declares(text: &str, name: &str) -> bool {
    const KEYWORDS: [&str; 7] = ["fn", "struct", "enum", "trait", "type", "const", "mod"];
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], text[at + name.len()..].chars().next());
        let is_whole = !after.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let line = before.rsplit('\n').next().unwrap().trim_start();
        let is_member = line.is_empty() || line.starts_with("pub") && line.ends_with(' ');
        let keyword = before.trim_end().rsplit([' ', '\n']).next().unwrap();
        is_whole && (is_member || before.ends_with(' ') && KEYWORDS.contains(&keyword))
    })
}

/// A reader searches the source for the names in these pages.
#[test]
fn names_in_the_architecture_and_security_pages_exist() {
    let root = Path::new(ROOT);
    let files = [rust_files(&root.join("src")), rust_files(&root.join("tests"))].concat();
    let is_word = |word: &str| word.chars().all(|c| c.is_alphanumeric() || c == '_');
    let (mut paths, mut names) = (0, 0);
    for page in ["docs/architecture.md", "docs/security.md", "CONTRIBUTING.md"] {
        let text = read(page);
        for span in code_spans(&text) {
            let is_path = span.starts_with("src/") || span.starts_with("tests/");
            let words: Vec<&str> = span.split("::").collect();
            if is_path && !span.contains(['*', ' ']) {
                paths += 1;
                assert!(root.join(span).exists(), "{page}: {span}");
            } else if let [.., outer, inner] = &*words
                && words.iter().all(|word| is_word(word))
            {
                names += 1;
                // A method may be in another file than its type, behind `impl`.
                let has_both = |file: &&String| {
                    let has_outer = declares(file, outer)
                        || file
                            .lines()
                            .any(|line| line.starts_with("impl") && line.contains(outer));
                    let is_module = file.starts_with(&format!("mod {inner} ;"));
                    is_module || has_outer && declares(file, inner)
                };
                assert!(files.iter().any(|file| has_both(&file)), "{page}: {span}");
            }
        }
    }
    assert!(paths > 50 && names > 60, "{paths} paths, {names} names");
}
