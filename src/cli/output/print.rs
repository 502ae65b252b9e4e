//! Writes to stdout: text, bytes and JSON. Everything that is not data goes to stderr.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

use serde::Serialize;

use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::format::escape;
use crate::cli::output::terminal;

/// Writes `text` to stdout. A closed pipe (`| head`) is not a failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    ignore_broken_pipe(terminal::write_stdout(text))
}

/// Writes `bytes` to stdout unchanged.
pub(crate) fn print_raw(bytes: &[u8]) -> Result<(), Failure> {
    ignore_broken_pipe(terminal::write_stdout_raw(bytes))
}

/// Writes one JSON object on one line to stdout. JSON escapes control characters.
pub(crate) fn print_json(object: &impl Serialize) -> Result<(), Failure> {
    print_raw(json_line(object).map_err(|error| Failure::new(Exit::Failed, error))?.as_bytes())
}

/// Formats `object` as JSON on one line. serde_json does not escape DEL, C1 and bidirectional
/// characters, so this function escapes them in the JSON notation.
pub(crate) fn json_line(object: &impl Serialize) -> serde_json::Result<String> {
    let json = serde_json::to_string(object)?;
    let mut line = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        let mut buffer = [0; 4];
        if matches!(escape(c.encode_utf8(&mut buffer)), Cow::Owned(_)) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                write!(line, "\\u{unit:04x}").ok();
            }
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    Ok(line)
}

fn ignore_broken_pipe(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        // The reader has what it wanted. Rust ignores SIGPIPE, so the write returns an error
        // instead.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let hint = "free some space, or redirect the output; changes before this error remain";
            Err(Failure::new(Exit::Failed, format!("cannot write to stdout: {error}"))
                .with_hint(hint))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_no_raw_control_characters() {
        let line = json_line(&["a\u{9b}\u{202e}\u{1b}\n", "é"]).unwrap();
        assert_eq!(line, "[\"a\\u009b\\u202e\\u001b\\n\",\"é\"]\n");
        assert_eq!(
            serde_json::from_str::<Vec<String>>(&line).unwrap()[0],
            "a\u{9b}\u{202e}\u{1b}\n"
        );
    }
}
