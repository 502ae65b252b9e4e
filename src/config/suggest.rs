//! The word that was most likely meant. Uses the crate `strsim`.

/// Edits that still count as a typing error, for each three characters of a word.
const CHARACTERS_PER_EDIT: usize = 3;
/// More edits than this make another word.
const MAX_EDITS: usize = 3;

/// The candidate that is closest to `word`, if it is close enough to be meant.
#[must_use]
pub fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let allowed = word.chars().count().div_ceil(CHARACTERS_PER_EDIT).min(MAX_EDITS);
    let wanted = word.to_lowercase();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase());
    let ranked = candidates.into_iter().map(|candidate| (distance(candidate), candidate));
    ranked.filter(|(edits, candidate)| *edits <= allowed && *edits < candidate.chars().count()).min().map(|best| best.1)
}

/// The message of an unknown key with the key that was most likely meant. `message` is serde's:
/// "unknown field `X`, expected one of `A`, `B`".
pub(super) fn with_suggestion(message: String) -> String {
    let mut words = message.split('`').skip(1).step_by(2);
    let Some(unknown) = words.next().filter(|_| message.starts_with("unknown field `")) else { return message };
    match closest(unknown, words) {
        Some(meant) => format!("unknown field `{unknown}`: did you mean `{meant}`?"),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_has_its_word_and_another_word_has_none() {
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
    fn an_unknown_key_names_the_one_that_was_meant() {
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
