//! The default note and run number of a push, from the variables of a CI system.
//!
//! Pure: the environment is read through a closure that the caller passes in. A run number comes
//! only from a variable that the CI system increases with every run, in a stream named after the
//! job: if two jobs shared a stream, one of them would supersede the other.

use headwater::push::RunNumber;

/// Maximum length of a note, in characters; a branch name may be long.
const MAX_NOTE_CHARS: usize = 500;

/// A CI system and its variables. If there are several variables, the first one that is set
/// applies.
struct CiSystem {
    /// The variable that identifies this CI system.
    marker: &'static str,
    /// The first part of the order stream.
    stream_prefix: &'static str,
    /// The variables that together name the job. All must be set for a run number.
    job: &'static [&'static str],
    /// The number that increases with every run.
    number: &'static [&'static str],
    commit: &'static [&'static str],
    branch: &'static [&'static str],
    url: &'static [&'static str],
}

/// The known CI systems. The generic one is last, because the others set `CI` too.
const CI_SYSTEMS: [CiSystem; 4] = [
    // https://docs.github.com/actions/reference/variables-reference; also Gitea and Forgejo.
    CiSystem {
        marker: "GITHUB_ACTIONS",
        stream_prefix: "github",
        job: &["GITHUB_REPOSITORY", "GITHUB_WORKFLOW"],
        number: &["GITHUB_RUN_NUMBER"],
        commit: &["GITHUB_SHA"],
        // In a pull request the second variable is `NUMBER/merge`, and only the first one is the
        // branch.
        branch: &["GITHUB_HEAD_REF", "GITHUB_REF_NAME"],
        // GitHub has no variable for the URL; `github_url` builds it.
        url: &[],
    },
    // https://docs.gitlab.com/ci/variables/predefined_variables/
    CiSystem {
        marker: "GITLAB_CI",
        stream_prefix: "gitlab",
        job: &["CI_PROJECT_PATH"],
        number: &["CI_PIPELINE_IID"],
        commit: &["CI_COMMIT_SHA"],
        branch: &["CI_COMMIT_REF_NAME"],
        url: &["CI_PIPELINE_URL", "CI_JOB_URL"],
    },
    // Jenkins does not set CI. Source:
    // https://www.jenkins.io/doc/book/pipeline/jenkinsfile/#using-environment-variables
    CiSystem {
        marker: "JENKINS_URL",
        stream_prefix: "jenkins",
        job: &["JOB_NAME"],
        number: &["BUILD_NUMBER"],
        commit: &["GIT_COMMIT"],
        branch: &["BRANCH_NAME", "GIT_BRANCH"],
        url: &["BUILD_URL"],
    },
    CiSystem {
        marker: "CI",
        stream_prefix: "ci",
        job: &["JOB_NAME"],
        number: &["BUILD_NUMBER"],
        commit: &["GIT_COMMIT", "COMMIT_SHA", "CI_COMMIT_SHA"],
        branch: &["BRANCH_NAME", "GIT_BRANCH", "CI_COMMIT_BRANCH"],
        url: &["BUILD_URL", "CI_PIPELINE_URL"],
    },
];

/// The note for a push from CI: commit, branch and run URL, if known.
pub(crate) fn note(lookup: impl Fn(&str) -> Option<String>) -> Option<String> {
    let kind = detect(&lookup)?;
    let url = first_non_empty(kind.url, &lookup).or_else(|| github_url(&lookup));
    let parts: Vec<String> =
        [first_non_empty(kind.commit, &lookup), first_non_empty(kind.branch, &lookup), url]
            .into_iter()
            .flatten()
            .collect();
    let note = parts
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_NOTE_CHARS)
        .collect::<String>();
    (!note.is_empty()).then_some(note)
}

/// The run number of a push from CI, if the job and its number are known. A repeated old run keeps
/// its number, so it still counts as older.
pub(crate) fn run_number(lookup: impl Fn(&str) -> Option<String>) -> Option<RunNumber> {
    let kind = detect(&lookup)?;
    // Without part of its name, the job would share a stream with other jobs.
    let job: Option<Vec<String>> =
        kind.job.iter().map(|name| non_empty_variable(name, &lookup)).collect();
    let number = first_non_empty(kind.number, &lookup)?.parse().ok()?;
    RunNumber::new(&format!("{}:{}", kind.stream_prefix, job?.join("/")), number).ok()
}

/// The job and the number of this run, if the CI system sets both.
pub(crate) fn job_description(lookup: impl Fn(&str) -> Option<String>) -> Option<String> {
    run_number(lookup).map(|order| format!("{} run {}", order.stream(), order.number()))
}

fn detect(lookup: impl Fn(&str) -> Option<String>) -> Option<&'static CiSystem> {
    // `CI=false` is a common way to say that this is not CI.
    CI_SYSTEMS
        .iter()
        .find(|kind| non_empty_variable(kind.marker, &lookup).is_some_and(|value| value != "false"))
}

/// The value of a variable, if it is not empty.
fn non_empty_variable(name: &str, lookup: impl Fn(&str) -> Option<String>) -> Option<String> {
    lookup(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn first_non_empty(names: &[&str], lookup: impl Fn(&str) -> Option<String>) -> Option<String> {
    names.iter().find_map(|name| non_empty_variable(name, &lookup))
}

/// The URL of the run on GitHub, assembled from parts because no variable contains the whole URL.
fn github_url(lookup: impl Fn(&str) -> Option<String>) -> Option<String> {
    let part = |name| non_empty_variable(name, &lookup);
    let (server, repository) = (part("GITHUB_SERVER_URL")?, part("GITHUB_REPOSITORY")?);
    Some(format!("{server}/{repository}/actions/runs/{}", part("GITHUB_RUN_ID")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn github_provides_note_and_order() {
        let lookup = environment(&[
            ("CI", "true"),
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_SHA", "abc123"),
            ("GITHUB_HEAD_REF", ""),
            ("GITHUB_REF_NAME", "main"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_REPOSITORY", "me/site"),
            ("GITHUB_WORKFLOW", "Build: all"),
            ("GITHUB_RUN_ID", "99"),
            ("GITHUB_RUN_NUMBER", "17"),
        ]);
        assert_eq!(
            note(&lookup).as_deref(),
            Some("abc123 main https://github.com/me/site/actions/runs/99")
        );
        let order = run_number(&lookup).unwrap();
        assert_eq!((order.stream(), order.number()), ("github:me/site/Build: all", 17));
    }

    #[test]
    fn gitlab_provides_note_and_order() {
        let lookup = environment(&[
            ("CI", "true"),
            ("GITLAB_CI", "true"),
            ("CI_PROJECT_PATH", "group/site"),
            ("CI_PIPELINE_IID", "4"),
            ("CI_COMMIT_SHA", "def"),
            ("CI_COMMIT_REF_NAME", "a\u{1b}b"),
            ("CI_PIPELINE_URL", "https://gitlab/p/4"),
        ]);
        assert_eq!(note(&lookup).as_deref(), Some("def ab https://gitlab/p/4"));
        assert_eq!(run_number(&lookup).unwrap().to_string(), "gitlab:group/site:4");
    }

    #[test]
    fn other_ci_systems_need_a_job_and_a_number() {
        let jenkins =
            environment(&[("JENKINS_URL", "x"), ("JOB_NAME", "site/main"), ("BUILD_NUMBER", "8")]);
        assert_eq!(run_number(&jenkins).unwrap().to_string(), "jenkins:site/main:8");
        assert_eq!(note(&jenkins), None);
        let generic = environment(&[("CI", "1"), ("BUILD_NUMBER", "8"), ("GIT_COMMIT", "c")]);
        assert_eq!((run_number(&generic), note(&generic).as_deref()), (None, Some("c")));
        let odd = environment(&[("CI", "1"), ("BUILD_NUMBER", "2026.1"), ("JOB_NAME", "j")]);
        assert_eq!(run_number(&odd), None);
    }

    #[test]
    fn no_ci_provides_nothing() {
        for pairs in [
            &[][..],
            &[("CI", "")],
            &[("CI", "false")],
            &[("BUILD_NUMBER", "3"), ("JOB_NAME", "j")],
        ] {
            let lookup = environment(pairs);
            assert_eq!((note(&lookup), run_number(&lookup)), (None, None));
        }
    }
}
