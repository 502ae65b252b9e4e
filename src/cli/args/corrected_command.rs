//! Builds a corrected command for a command that failed.
//!
//! Pure: the caller passes in the arguments of the process.

use headwater::push::SiteOfMirror;
use headwater::tree_path::Site;

/// Restricts the command `args`, which includes the program name, to the site that most of
/// `mirrors` have. If several sites tie, chooses the first one. Removes mirrors of other sites, but
/// keeps the source of `--from`.
pub(crate) fn for_one_site(args: &[String], mirrors: &[SiteOfMirror]) -> String {
    // The source stays even if it has a different site, because the user named it.
    let source = args.iter().enumerate().find_map(|(at, arg)| match arg.strip_prefix("--from") {
        Some("") => args.get(at + 1).map(String::as_str),
        Some(value) => value.strip_prefix('='),
        None => None,
    });
    let mirrors: Vec<&SiteOfMirror> =
        mirrors.iter().filter(|one| Some(one.mirror.as_str()) != source).collect();
    let votes = |site: &Site| mirrors.iter().filter(|one| one.site == *site).count();
    let Some(first) = mirrors.first() else { return command_line(args.iter().skip(1)) };
    let site = mirrors.iter().fold(&first.site, |best, one| {
        if votes(&one.site) > votes(best) { &one.site } else { best }
    });
    let is_other = |name: &str| mirrors.iter().any(|one| one.mirror == name && one.site != *site);
    let mut words: Vec<String> =
        args.iter().skip(1).filter(|arg| !is_other(arg)).cloned().collect();
    for one in mirrors.iter().filter(|one| one.site != *site && !args.contains(&one.mirror)) {
        words.extend(["--skip".to_owned(), one.mirror.clone()]);
    }
    words.extend(["--site".to_owned(), site.to_string()]);
    command_line(words.iter())
}

fn command_line<'w>(words: impl Iterator<Item = &'w String>) -> String {
    let quoted: Vec<String> = words.map(|word| shell_quoted(word)).collect();
    format!("headwater {}", quoted.join(" "))
}

/// Quotes a word for a shell.
fn shell_quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    // Nothing can escape a quote inside single quotes, so the quoted part is closed before the
    // quote and reopened after it.
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retyped_command_leaves_out_mirrors_of_other_sites() {
        let of = |pairs: &[(&str, &str)]| -> Vec<SiteOfMirror> {
            let one = |(mirror, site): &(&str, &str)| SiteOfMirror {
                mirror: (*mirror).to_owned(),
                site: Site::new(site).unwrap(),
            };
            pairs.iter().map(one).collect()
        };
        let retyped = |args: &str, pairs: &[(&str, &str)]| {
            let args: Vec<String> = args.split('|').map(str::to_owned).collect();
            for_one_site(&args, &of(pairs))
        };
        let pair = [("./a", "docs"), ("./b", "news")];
        assert_eq!(
            retyped("/bin/hw|push|my tree|./a|./b", &pair),
            "headwater push 'my tree' ./a --site docs"
        );
        let three = [("./a", "docs"), ("./b", "news"), ("./c", "news")];
        assert_eq!(
            retyped("hw|push|t|./a|./b|./c|--json", &three),
            "headwater push t ./b ./c --json --site news"
        );
        assert_eq!(
            retyped("hw|heal", &[("eu", "docs"), ("us", "news")]),
            "headwater heal --skip us --site docs"
        );
        for from in ["--from|./a", "--from=./a"] {
            let words = format!("headwater push {} ./b --site news", from.replace('|', " "));
            assert_eq!(retyped(&format!("hw|push|{from}|./b"), &pair), words);
        }
        assert_eq!(shell_quoted("it's"), r"'it'\''s'");
    }
}
