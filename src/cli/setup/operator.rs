//! The name of the person or CI job that runs a command. A release records this name together with
//! a decision.
//!
//! Pure except [`name`]: the environment and the host name are arguments.

use std::path::Path;

use headwater::release::MAX_NAME_BYTES;
use headwater::{fsx, users};

use crate::cli::setup::{ci, settings};

/// The file with the host name on Linux.
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";

/// The CI job or `user@host`; `None` if neither is known.
pub(crate) fn name() -> Option<String> {
    let host = fsx::read_text(Path::new(HOST_NAME_FILE), 256).ok();
    from_environment(settings::environment_variable, users::own_name, host.as_deref())
}

/// `own_name` returns the user's name from the user database. It is used if no variable contains a
/// name, as in a container or under cron.
fn from_environment(
    lookup: impl Fn(&str) -> Option<String>,
    own_name: impl Fn() -> Option<String>,
    host: Option<&str>,
) -> Option<String> {
    let set = |name: &&str| lookup(name).filter(|value| !value.trim().is_empty());
    // sudo sets USER to the user that it runs the command as.
    let user = || ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(set).or_else(&own_name);
    // The job takes precedence over the user: on a CI system the user is the same for everyone.
    let name = ci::job_description(&lookup).or_else(|| {
        match (user(), host.map(str::trim).filter(|host| !host.is_empty())) {
            (Some(user), Some(host)) => Some(format!("{user}@{host}")),
            (user, _) => user,
        }
    })?;
    let mut name: String = name.chars().filter(|c| !c.is_control()).collect();
    while name.len() > MAX_NAME_BYTES {
        name.pop();
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ci_job_takes_precedence_over_the_user() {
        let given = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            }
        };
        let no_name = || None;
        let ann = given(&[("USER", "root"), ("SUDO_USER", "ann")]);
        assert_eq!(from_environment(ann, no_name, Some("desk\n")).as_deref(), Some("ann@desk"));
        assert_eq!(
            from_environment(given(&[("LOGNAME", "ann\u{1b}")]), no_name, None).as_deref(),
            Some("ann")
        );
        assert_eq!(from_environment(given(&[]), no_name, Some("desk")), None);
        let own_name = || Some("bob".to_owned());
        assert_eq!(
            from_environment(given(&[]), own_name, Some("desk")).as_deref(),
            Some("bob@desk")
        );
        let job =
            given(&[("USER", "ci"), ("CI", "true"), ("JOB_NAME", "deploy"), ("BUILD_NUMBER", "8")]);
        assert_eq!(
            from_environment(job, no_name, Some("runner")).as_deref(),
            Some("ci:deploy run 8")
        );
        assert_eq!(
            from_environment(given(&[("CI", "true"), ("USER", "ci")]), no_name, Some("runner"))
                .as_deref(),
            Some("ci@runner")
        );
        let long = |name: &str| (name == "USER").then(|| "ü".repeat(300));
        assert_eq!(
            from_environment(long, no_name, None).map(|name| name.len()),
            Some(MAX_NAME_BYTES)
        );
    }
}
