//! Commands as flags give them: as words, or as a line for a shell.

/// The words of a command, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words(pub(crate) Vec<String>);

/// Splits a command at blanks; what stands in single or double quotes stays together, nothing else is special.
pub(crate) fn parse_words(text: &str) -> Result<Words, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match (quote, words.first()) {
        (Some(_), _) => Err("a quote is not closed".to_owned()),
        (None, Some(program)) if !program.is_empty() => Ok(Words(words)),
        _ => Err("it names no program".to_owned()),
    }
}

/// Reads a command that a shell will read: one line.
pub(crate) fn parse_line(text: &str) -> Result<String, String> {
    match text.trim() {
        line if line.is_empty() || line.contains(char::is_control) => Err("write a command on one line".to_owned()),
        line => Ok(line.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_into_words() {
        let words = |text: &str| parse_words(text).map(|words| words.0.join("|"));
        assert_eq!(words("ssh").unwrap(), "ssh");
        assert_eq!(words("  ssh -i 'my key'  -o \"A b\"='c' ''").unwrap(), "ssh|-i|my key|-o|A b=c|");
        for bad in ["", "  ", "ssh 'x", "''"] {
            assert!(words(bad).is_err(), "{bad}");
        }
        assert!(parse_line("a\nb").is_err() && parse_line(" ").is_err());
        assert_eq!(parse_line("sudo headwater").unwrap(), "sudo headwater");
    }
}
