//! The settings for how commands run. A flag takes precedence over each of these keys.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use super::{Checker, ConfigError, raw};
use crate::mirror::{ReceiveCommand, SshCommand};
use crate::push::LevelChoice;

/// How commands run if no flag is given. `None` has the same effect as no configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunDefaults {
    /// How content is compressed.
    pub level: Option<LevelChoice>,
    /// How many threads are used.
    pub jobs: Option<NonZeroUsize>,
    /// How long to wait for a mirror that another run is changing.
    pub wait: Option<Duration>,
    /// How many mirrors receive content at the same time.
    pub max_parallel: Option<NonZeroUsize>,
    /// The bandwidth limit for all mirrors together, in bytes per second.
    pub bwlimit: Option<NonZeroU64>,
    /// How long after the start of a run headwater gives up on mirrors that have no `deadline` of
    /// their own.
    pub deadline: Option<Duration>,
    /// How ssh is called for mirrors that have no `ssh_command` of their own.
    pub ssh_command: Option<SshCommand>,
    /// The command that ssh runs on mirrors that have no `receive_command` of their own.
    pub receive_command: Option<ReceiveCommand>,
}

impl Checker<'_> {
    pub(super) fn run_defaults(&self, file: &raw::RawFile) -> Result<RunDefaults, ConfigError> {
        Ok(RunDefaults {
            level: file.level,
            jobs: file.jobs,
            wait: file.wait.as_ref().map(|wait| self.duration(wait)).transpose()?,
            max_parallel: file.max_parallel,
            bwlimit: file.bwlimit.as_ref().map(|rate| self.rate(rate)).transpose()?,
            deadline: file.deadline.as_ref().map(|deadline| self.duration(deadline)).transpose()?,
            ssh_command: self.command(file.ssh_command.as_ref())?,
            receive_command: self.command(file.receive_command.as_ref())?,
        })
    }
}
