//! The mirrors of a command, and the order in which they switch. Converts the groups, waves and
//! frozen mirrors in the configuration into a push's policy. Uses the crate `percent-encoding`.

use std::time::{SystemTime, UNIX_EPOCH};

use headwater::config::{self, Config, MirrorConfig};
use headwater::mirror::Expiries;
use headwater::push::{Goal, MirrorReport, OnFailure, Outcome, Policy, Probe, Traffic, Wave};
use headwater::release::PartialScope;
use headwater::tree_path::TreePath;
use headwater::web;
use percent_encoding::percent_decode_str;

use crate::cli::args::ConfigArgs;
use crate::cli::args::operands::MirrorChoice;
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::setup::operator;

/// Removes the mirrors that `--only` and `--skip` exclude.
pub(crate) fn apply_only_and_skip(config: &mut Config, args: &ConfigArgs) -> Result<(), Failure> {
    let is_named = |mirror: &MirrorConfig, word: &str| {
        mirror.name.as_str() == word
            || mirror.group.as_ref().is_some_and(|group| group.as_str() == word)
    };
    // A word that names nothing is an error: a misspelt `--skip` would push to the mirror that it
    // should leave out.
    for word in args.only.iter().chain(&args.skip) {
        if !config.mirrors.iter().any(|mirror| is_named(mirror, word)) {
            let error = format!("no mirror and no group named {word:?} is configured");
            return Err(Failure::new(Exit::Usage, error).with_hint(known_names_hint(config, word)));
        }
    }
    let listed =
        |words: &[String], mirror: &MirrorConfig| words.iter().any(|word| is_named(mirror, word));
    let had_mirrors = !config.mirrors.is_empty();
    let is_selected = |mirror: &MirrorConfig| {
        (args.only.is_empty() || listed(&args.only, mirror)) && !listed(&args.skip, mirror)
    };
    // Kept, because the gauges and `partial` concern all configured mirrors.
    config.skipped_mirrors = config.mirrors.extract_if(.., |mirror| !is_selected(mirror)).collect();
    if had_mirrors && config.mirrors.is_empty() {
        return Err(Failure::new(Exit::Usage, "--only and --skip leave no mirror")
            .with_hint("change --only or --skip"));
    }
    Ok(())
}

fn known_names_hint(config: &Config, word: &str) -> String {
    let mut groups: Vec<&str> = config
        .mirrors
        .iter()
        .filter_map(|mirror| mirror.group.as_ref())
        .map(config::Label::as_str)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    let names: Vec<&str> = config.mirrors.iter().map(|mirror| mirror.name.as_str()).collect();
    let meant = config::closest(word, names.iter().chain(&groups).copied());
    let meant = meant.map(|meant| format!("did you mean `{meant}`? ")).unwrap_or_default();
    if groups.is_empty() {
        format!("{meant}name a configured mirror: {}", names.join(", "))
    } else {
        format!(
            "{meant}name a configured mirror: {}; or a group: {}",
            names.join(", "),
            groups.join(", ")
        )
    }
}

/// Removes the frozen mirrors from `mirrors`. Returns the reports for them.
///
/// # Errors
/// Fails if no mirror remains.
pub(crate) fn extract_frozen(
    mirrors: &mut Vec<MirrorChoice>,
    config: &Config,
) -> Result<Vec<MirrorReport>, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let is_frozen = |choice: &mut MirrorChoice| {
        config.mirror(&choice.name).is_some_and(|mirror| mirror.is_frozen(now))
    };
    let frozen: Vec<MirrorReport> = mirrors.extract_if(.., is_frozen).map(frozen_report).collect();
    if mirrors.is_empty() {
        let error = "every mirror is frozen";
        let hint = "remove `frozen` from a [[mirror]] in the configuration, or change its `until`, \
                    to push to that mirror";
        return Err(Failure::new(Exit::Usage, error).with_hint(hint));
    }
    Ok(frozen)
}

/// The note that the release made by `command` is for only part of the configured fleet; `None` if
/// it is for the whole fleet. Frozen mirrors do not count as missing, and locations that are not
/// configured count as a separate fleet.
pub(crate) fn partial(
    mirrors: &[MirrorChoice],
    config: &Config,
    command: &str,
) -> Option<PartialScope> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let is_chosen = |mirror: &MirrorConfig| {
        let place = |url: &str| url.trim_end_matches('/').to_owned();
        mirrors.iter().any(|one| {
            one.name == mirror.name.as_str() || place(&one.location) == place(&mirror.url)
        })
    };
    let (chosen, others): (Vec<_>, Vec<_>) = config
        .all_mirrors()
        .filter(|mirror| !mirror.is_frozen(now))
        .partition(|mirror| is_chosen(mirror));
    if chosen.is_empty() || others.is_empty() {
        return None;
    }
    let mut names: Vec<String> = mirrors.iter().map(|mirror| mirror.name.clone()).collect();
    names.sort_unstable();
    let by = operator::name().map(|name| format!(" by {name}")).unwrap_or_default();
    Some(PartialScope { mirrors: names, why: format!("{command}{by}") })
}

fn frozen_report(choice: MirrorChoice) -> MirrorReport {
    MirrorReport {
        mirror: choice.name,
        location: choice.location,
        outcome: Outcome::Frozen,
        before: None,
        now: None,
        new_bytes: 0,
        traffic: Traffic::default(),
        expiries: Expiries::default(),
        hook: None,
        needs_clean_up: false,
    }
}

/// The policy for switching, from the configuration.
///
/// # Errors
/// Fails if a probe names no path in a tree.
pub(crate) fn policy(
    config: &Config,
    on_failure: Option<OnFailure>,
    goal: Goal,
) -> Result<Policy, Failure> {
    let on_failure = on_failure.unwrap_or(config.on_failure);
    let waves: Result<_, _> = config.waves.iter().map(|inputs| wave(config, inputs)).collect();
    Ok(Policy { goal, on_failure, waves: waves? })
}

fn wave(config: &Config, inputs: &config::WaveConfig) -> Result<Wave, Failure> {
    let is_in = |mirror: &&MirrorConfig| {
        mirror.group.as_ref().is_some_and(|group| inputs.groups.contains(group))
    };
    let members: Vec<&MirrorConfig> = config.mirrors.iter().filter(is_in).collect();
    let mut probes = Vec::new();
    // Skip waves that contain no mirror of this command.
    for text in inputs.probes.iter().filter(|_| !members.is_empty()) {
        // A full URL is fetched once, and a path is fetched from each mirror in the wave.
        if text.contains("://") {
            probes.push(probe(text.clone(), path_in_tree(text, config))?);
            continue;
        }
        for url in members.iter().filter_map(|mirror| mirror.public_url.as_ref()) {
            let path = text.trim_start_matches('/');
            probes.push(probe(format!("{url}/{}", web::encode_path(path)), path.to_owned())?);
        }
    }
    let mirrors = members.iter().map(|mirror| mirror.name.to_string()).collect();
    Ok(Wave { mirrors, soak: inputs.soak, probes })
}

/// The path in the tree that a URL refers to: the part after a public URL that the URL starts with
/// or, if there is none, the part after the host.
fn path_in_tree(url: &str, config: &Config) -> String {
    let publics = config.all_mirrors().filter_map(|mirror| mirror.public_url.as_ref());
    let inside = publics
        .filter_map(|public| url.strip_prefix(public.as_str()))
        .find(|rest| rest.starts_with('/'));
    let host = || {
        url.split_once("://")
            .and_then(|(_, rest)| rest.split_once('/'))
            .map_or("", |(_, path)| path)
    };
    let path = inside.map_or_else(host, |rest| &rest[1..]);
    percent_decode_str(path).decode_utf8_lossy().into_owned()
}

/// A probe of `path`. For a directory, it fetches `index.html`.
fn probe(url: String, mut path: String) -> Result<Probe, Failure> {
    if path.is_empty() || path.ends_with('/') {
        path.push_str("index.html");
    }
    match TreePath::new(&path) {
        Ok(path) => Ok(Probe { url, path }),
        Err(error) => {
            let hint = "write the URL of a file in the tree, or a path such as index.html";
            Err(Failure::new(Exit::Usage, format!("probe {url:?}: {path:?} {error}"))
                .with_hint(hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const FLEET: &str = "[mirror_defaults]\npublic_url='https://{name}.example/docs'\n\
                         url='/srv/{name}'\n[[mirror]]\nname='a'\ngroup='canary'\n[[mirror]]\n\
                         name='b'\ngroup='eu'\n[[mirror]]\nname='c'\n";

    fn config(more: &str) -> Config {
        Config::parse(&format!("{FLEET}{more}"), Path::new("headwater.toml")).unwrap()
    }

    fn narrowed(only: &[&str], skip: &[&str]) -> Result<Vec<String>, Failure> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let (mut config, args) =
            (config(""), ConfigArgs { config: None, only: words(only), skip: words(skip) });
        apply_only_and_skip(&mut config, &args)?;
        Ok(config.mirrors.iter().map(|mirror| mirror.name.to_string()).collect())
    }

    #[test]
    fn only_and_skip_accept_names_and_groups() {
        assert_eq!(narrowed(&[], &[]).unwrap(), ["a", "b", "c"]);
        assert_eq!(narrowed(&["canary", "c"], &[]).unwrap(), ["a", "c"]);
        assert_eq!(narrowed(&[], &["eu"]).unwrap(), ["a", "c"]);
        assert_eq!(narrowed(&["canary", "eu"], &["a"]).unwrap(), ["b"]);
        let unknown = narrowed(&["us"], &[]).unwrap_err().render();
        assert!(
            unknown.contains("\"us\"") && unknown.contains("or a group: canary, eu"),
            "{unknown}"
        );
        assert!(narrowed(&["a"], &["canary"]).unwrap_err().render().contains("leave no mirror"));
    }

    #[test]
    fn probe_urls_map_to_tree_paths() {
        let config = config(
            "[[wave]]\ngroups=['canary']\nprobe=['x y.html', 'https://a.example/docs/', \
             'https://cdn.example/a%20b.js']\n",
        );
        let policy = policy(&config, None, Goal::Activate).unwrap();
        assert_eq!(policy.waves[0].mirrors, ["a"]);
        let probes: Vec<_> = policy.waves[0]
            .probes
            .iter()
            .map(|probe| (probe.url.as_str(), probe.path.as_str()))
            .collect();
        assert_eq!(
            probes,
            [
                ("https://a.example/docs/x%20y.html", "x y.html"),
                ("https://a.example/docs/", "index.html"),
                ("https://cdn.example/a%20b.js", "a b.js"),
            ]
        );
        assert!(probe("https://h/../x".to_owned(), "../x".to_owned()).is_err());
    }

    #[test]
    fn frozen_mirrors_are_listed_separately() {
        let config = config(
            "[[mirror]]\nname='d'\nfrozen=true\n[[mirror]]\nname='e'\nfrozen=true\n\
             until=2001-01-01\n",
        );
        let mut mirrors: Vec<MirrorChoice> =
            config.mirrors.iter().map(MirrorChoice::from).collect();
        let frozen = extract_frozen(&mut mirrors, &config).unwrap();
        assert_eq!((mirrors.len(), frozen.len(), frozen[0].mirror.as_str()), (4, 1, "d"));
        let mut only: Vec<MirrorChoice> = vec![MirrorChoice::from(config.mirror("d").unwrap())];
        assert_eq!(extract_frozen(&mut only, &config).unwrap_err().exit(), Exit::Usage);
    }
}
