//! The result of `POST v1/settle`.

use serde::{Deserialize, Serialize};

use crate::release::ReleaseName;
use crate::store::Pruned;

/// The data that a clean-up dropped, and the state of the hook for the last switch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CleanUpResult {
    /// The dropped data.
    // Flattened, because older receivers send only `Pruned`.
    #[serde(flatten)]
    pub pruned: Pruned,
    /// The hook for the last switch; `None` if no hook ran, or if the receiver does not report it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<HookRun>,
}

impl From<Pruned> for CleanUpResult {
    fn from(pruned: Pruned) -> Self {
        Self { pruned, hook: None }
    }
}

/// A run of the command that a mirror runs after a switch (`post_activate`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRun {
    /// The release that has become current.
    pub release: ReleaseName,
    /// The state of the command.
    #[serde(flatten)]
    pub state: HookState,
}

/// The state of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum HookState {
    /// The command is still running.
    Running,
    /// The command succeeded.
    Succeeded,
    /// The command could not be run, took too long, or failed.
    Failed {
        /// Why the command failed. The text comes from the peer, so escape it before you show it.
        reason: String,
    },
    /// A state that only a newer headwater knows.
    // A newer receiver may report another state, which must not make the response unreadable.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> CleanUpResult {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn response_round_trips_and_has_no_hook_from_an_older_receiver() {
        let release: ReleaseName = "7-00112233445566aa".parse().unwrap();
        let states = [
            HookState::Running,
            HookState::Succeeded,
            HookState::Failed { reason: "exit status: 3".to_owned() },
        ];
        for state in states {
            let hook = Some(HookRun { release, state });
            let settled =
                CleanUpResult { pruned: Pruned { releases: 2, ..Pruned::default() }, hook };
            assert_eq!(read(&serde_json::to_string(&settled).unwrap()), settled);
        }
        assert_eq!(read(r#"{"releases":2}"#), Pruned { releases: 2, ..Pruned::default() }.into());
        let newer = r#"{"hook":{"release":"7-00112233445566aa","state":"skipped","until":3}}"#;
        assert_eq!(read(newer).hook.unwrap().state, HookState::Unknown);
    }
}
