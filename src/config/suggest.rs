//! Suggests the word that the user probably meant. Uses the crate `strsim`.

/// For every three characters in a word, one edit still counts as a typo.
const CHARACTERS_PER_EDIT: usize = 3;
/// More edits than this make a different word.
const MAX_EDITS: usize = 3;

/// The candidate that is closest to `word`, if it is close enough to be a likely typo.
#[must_use]
pub fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let allowed = word.chars().count().div_ceil(CHARACTERS_PER_EDIT).min(MAX_EDITS);
    let wanted = word.to_lowercase();
    let distance =
        |candidate: &str| strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase());
    let ranked = candidates.into_iter().map(|candidate| (distance(candidate), candidate));
    ranked
        // Fewer edits than characters: otherwise any short word could be turned into any other.
        .filter(|(edits, candidate)| *edits <= allowed && *edits < candidate.chars().count())
        .min()
        .map(|best| best.1)
}

/// Type names from serde and Rust, in words that the author of a configuration understands.
const TYPE_WORDS: [(&str, &str); 12] = [
    ("a nonzero u32", "a whole number from 1"),
    ("a nonzero u64", "a whole number from 1"),
    ("a nonzero usize", "a whole number from 1"),
    ("a nonzero unsigned integer", "a whole number from 1"),
    ("u8", "a whole number"),
    ("u32", "a whole number"),
    ("u64", "a whole number"),
    ("usize", "a whole number"),
    ("a string", "a string in quotes"),
    ("a borrowed string", "a string in quotes"),
    ("a boolean", "true or false"),
    ("a map", "a table"),
];

/// Rewrites a serde message about a value of the wrong type so that it does not name Rust types.
/// Any other message stays unchanged.
pub(super) fn with_plain_types(message: String) -> String {
    // Parses the text of the message, because serde provides nothing else.
    let Some((found, expected)) = message.split_once(", expected ") else { return message };
    let Some(found) =
        found.strip_prefix("invalid type: ").or_else(|| found.strip_prefix("invalid value: "))
    else {
        return message;
    };
    if found == "map" && expected == "a sequence" {
        return "this table may occur several times: write its name in double brackets, as in \
                [[mirror]]"
            .to_owned();
    }
    let words =
        TYPE_WORDS.iter().find(|(name, _)| *name == expected).map_or(expected, |(_, words)| words);
    let words = if expected == "a sequence" { "a list in square brackets" } else { words };
    let found = found.replacen("string ", "", 1).replacen("integer ", "", 1).replace('`', "");
    format!("this is {found}, and must be {words}")
}

/// Adds the key that the user probably meant to the message about an unknown key. `message` is
/// serde's message: "unknown field `X`, expected one of `A`, `B`".
pub(super) fn with_suggestion(message: String) -> String {
    let mut words = message.split('`').skip(1).step_by(2);
    let Some(unknown) = words.next().filter(|_| message.starts_with("unknown field `")) else {
        return message;
    };
    let is_location = ["path", "dir", "directory", "location", "target"].contains(&unknown);
    if is_location && message.contains("`public_url`") {
        return format!("unknown field `{unknown}`: `url` is a directory or a URL");
    }
    match closest(unknown, words) {
        Some(meant) => format!("unknown field `{unknown}`: did you mean `{meant}`?"),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_word_gets_a_suggestion_and_other_words_do_not() {
        let names = ["edge-fra", "edge-lon", "edge-nyc", "hub"];
        for (word, meant) in [
            ("egde-fra", Some("edge-fra")),
            ("EDGE-LON", Some("edge-lon")),
            ("edge-lan", Some("edge-lon")),
            ("hubb", Some("hub")),
            ("x", None),
            ("production", None),
        ] {
            assert_eq!(closest(word, names), meant, "{word}");
        }
        assert_eq!(closest("a", ["b"]), None);
    }

    #[test]
    fn wrong_value_type_is_reported_without_rust_types() {
        let message = |text: &str| with_plain_types(text.to_owned());
        for (of_serde, plain) in [
            (
                "invalid type: string \"3\", expected a nonzero u32",
                "this is \"3\", and must be a whole number from 1",
            ),
            (
                "invalid value: integer `0`, expected a nonzero u32",
                "this is 0, and must be a whole number from 1",
            ),
            (
                "invalid type: integer `5`, expected a string",
                "this is 5, and must be a string in quotes",
            ),
            (
                "invalid type: string \"a\", expected a sequence",
                "this is \"a\", and must be a list in square brackets",
            ),
        ] {
            assert_eq!(message(of_serde), plain);
        }
        assert!(message("invalid type: map, expected a sequence").contains("[[mirror]]"));
        let other = "unknown field `a`, expected one of `b`";
        assert_eq!(message(other), other);
    }

    #[test]
    fn unknown_key_error_names_the_closest_key() {
        let message = |text: &str| with_suggestion(text.to_owned());
        assert_eq!(
            message("unknown field `sitte`, expected one of `site`, `content`"),
            "unknown field `sitte`: did you mean `site`?"
        );
        let other = "unknown field `colour`, expected `name` or `url`";
        assert_eq!(message(other), other);
        assert_eq!(message("missing field `url`"), "missing field `url`");
    }
}
