//! The final screen of a terminal: it shows the result, and no remains of the progress display.

use crate::harness::Workspace;
use crate::terminal::{Shown, Terminal};

/// Columns of a narrow, a usual and a wide terminal.
const WIDTHS: [u16; 3] = [60, 80, 160];

/// Words that appear only in the progress block.
const BLOCK: [&str; 6] = ["scan:", "pack:", "is ready", "is current", "kB/s", "others follow"];

fn assert_no_block(shown: &Shown) {
    BLOCK.iter().for_each(|words| shown.never(words));
}

/// A workspace with three configured mirrors; `wave` configures a wave with the first one.
fn fleet(wave: &str) -> Workspace {
    let workspace = Workspace::with_tree();
    let mirrors = "content='tree'\n[mirror_defaults]\nurl='m-{name}'\n[[mirror]]\nname='a'\n\
                   group='canary'\n[[mirror]]\nname='b'\n[[mirror]]\nname='c'\n[[wave]]\n\
                   groups=['canary']\n";
    workspace.write("headwater.toml", format!("{mirrors}{wave}"));
    workspace
}

#[test]
fn only_the_push_result_stays_on_the_terminal() {
    for columns in WIDTHS {
        let workspace = Workspace::with_tree();
        let shown = workspace.on_terminal(columns, "push tree ./www").end().code(0);
        assert!(shown.lines[0].starts_with("release 1: 5 added"), "{shown}");
        assert!(shown.once("./www").ends_with("switched"), "{shown}");
        assert_no_block(&shown);
    }
}

#[test]
fn only_the_result_of_each_command_stays_on_the_terminal() {
    for columns in WIDTHS {
        let workspace = fleet("soak='0s'\n");
        let see = |line: &str, words: &[&str]| {
            let shown = workspace.on_terminal(columns, line).end().code(0);
            words.iter().for_each(|words| drop(shown.once(words).to_owned()));
            assert_no_block(&shown);
            shown
        };
        see("plan", &["release 1"]);
        see("push", &["release 1: 5 added", "first to last mirror:"]);
        workspace.write("tree/index.html", "two");
        let shown = see("push --stage-only", &["staged: `headwater activate 2-"]);
        let name = shown
            .once("staged:")
            .split(['`', ' '])
            .find(|word| word.starts_with("2-"))
            .unwrap()
            .to_owned();
        see(&format!("activate {name}"), &["release 2"]);
        see("diff ./m-a:1 tree", &["index.html"]);
        see("rollback a b c --to 1", &["release 3"]);
        workspace.write("tree/index.html", "three");
        see("push", &["release 4"]);
        workspace.remove("m-c");
        workspace.remove("home");
        see("heal", &["release 4"]);
        let shown = see("verify a b c", &[]);
        assert_eq!(shown.lines.len(), 3, "{shown}");
        see("repair a --from b", &["a: no fault"]);
        let shown = see("prune a b c --keep 1", &[]);
        assert_eq!(shown.lines.len(), 3, "{shown}");
        see("status", &["3 of 3 mirrors current"]);
    }
}

#[test]
fn failures_appear_above_the_result_and_hints_below() {
    for columns in WIDTHS {
        let workspace = fleet("soak='0s'\n");
        workspace.ok("push");
        workspace.write("tree/index.html", "two");
        workspace.remove("m-c");
        workspace.write("m-c", "a file");
        let shown = workspace.on_terminal(columns, "push --require any").end().code(3);
        let at = |words: &str| {
            shown.once(words);
            shown.lines.iter().position(|line| line.contains(words)).unwrap()
        };
        let (error, result, hint) = (
            at("error: c failed"),
            at("release 2: 1 changed"),
            at("hint: push again to update the mirrors that failed"),
        );
        assert!(error < result && result < hint, "{shown}");
        assert_no_block(&shown);
        let shown = workspace.on_terminal(columns, "push").end().code(4);
        shown.once("error: c failed");
        shown.once("is not a directory");
        shown.once("failed (bad place)");
        shown.once("; nothing was activated");
        assert_no_block(&shown);
        let shown = workspace.on_terminal(columns, "push gone a").end().code(8);
        shown.once("error:");
        assert_no_block(&shown);
    }
}

#[test]
fn soak_shows_a_countdown_and_interrupt_is_confirmed_once() {
    for columns in WIDTHS {
        let workspace = fleet("soak='1h'\n");
        let mut terminal = workspace.on_terminal(columns, "push");
        terminal.wait_for("59 min");
        terminal.wait_for("wave 1: 59 min");
        terminal.interrupt();
        let shown = terminal.end().code(130);
        shown.once("stopping: every mirror stays on a complete release");
        shown.once("release 1: 5 added");
        shown.once("stopped: wave 1");
        assert_no_block(&shown);
    }
}

#[test]
fn soak_without_a_terminal_is_one_line() {
    let workspace = fleet("soak='50ms'\n");
    let run = workspace.ok("push");
    let until = |line: &&str| {
        line.starts_with("wave 1: ") && line.contains(" before the others follow, until 20")
    };
    assert_eq!(run.stderr.lines().filter(until).count(), 1, "{}", run.stderr);
}

#[test]
fn labels_are_coloured_only_on_a_terminal() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./www");
    workspace.remove("www");
    let line = "push tree ./www ./other --require any";
    let shown = workspace.on_terminal(80, line).end().code(3);
    assert_eq!(shown.coloured[0], "error:", "{shown}");
    assert!(shown.coloured[1..].iter().all(|word| word == "hint:"), "{:?}", shown.coloured);
    assert!(shown.coloured.len() > 1, "{shown}");
    let shown = workspace.on_terminal(80, "status ./nowhere").end().code(2);
    assert_eq!(shown.coloured, ["error:", "hint:"], "{shown}");
    let mut command = workspace.command(&["status", "./nowhere"]);
    command.env("NO_COLOR", "1");
    let shown = Terminal::start(command, 80).end().code(2);
    assert_eq!(shown.coloured, [""; 0], "{shown}");
    // The harness checks the output of every run without a terminal for escape sequences.
    workspace.run(line).code(3);
}
