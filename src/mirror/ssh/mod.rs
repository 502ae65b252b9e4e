//! Receivers behind `ssh`: a child process whose standard input and output
//! carry the same HTTP as a socket would.
//!
//! Promises that nothing of a location or a peer becomes an option or a
//! command, and that no child outlives its connection. Refuses to know what is
//! said over it.

mod banner;
mod child;
mod command;
mod transport;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ureq::Agent;
use ureq::config::Config;

use crate::cancel::CancelToken;
use crate::mirror::MirrorError;
use crate::mirror::http::{AttemptError, RetryAction};
use crate::mirror::location::SshUrl;
use crate::mirror::transport_error::TransportError;
use crate::protocol::{Banner, BannerSite, VERSION};
use crate::text::Secrets;
use crate::tree_path::Site;

use child::Child;
pub use command::{ParseReceiveCommandError, ParseSshCommandError, ReceiveCommand, SshCommand};
use transport::{NoResolver, Pipe, PipeConnector};

/// Longest time from the start of `ssh` to the banner.
const GREETING: Duration = Duration::from_secs(60);
/// The authority in requests; the child process is the only place they go to.
const AUTHORITY: &str = "http://receiver";

/// How `ssh` is called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshSettings {
    /// The program and its first arguments.
    pub command: SshCommand,
    /// The command that runs on the other machine; `receive` and the directory follow.
    pub receiver: ReceiveCommand,
    /// The only key that the host may have, as in `ssh-ed25519 AAAA…`; nothing: as `ssh` is configured.
    pub host_key: Option<String>,
    /// Variables that `ssh` does not inherit, beside [`crate::command::TOKEN_VARIABLE`].
    pub secret_variables: Vec<String>,
}

/// The way to one receiver behind `ssh`.
pub(super) struct SshConnection {
    place: SshUrl,
    settings: SshSettings,
    site: Option<Site>,
    cancel: CancelToken,
    /// The base path, once a banner has told it.
    base: Mutex<Option<String>>,
    /// A connection that was made to learn the base.
    first_pipe: Mutex<Option<Pipe>>,
}

impl fmt::Debug for SshConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshLink").field("place", &self.place).field("site", &self.site).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SshConnection {
    pub(super) fn new(place: &SshUrl, settings: &SshSettings, site: Option<Site>, cancel: CancelToken) -> Self {
        let (place, settings) = (place.clone(), settings.clone());
        Self { place, settings, site, cancel, base: Mutex::default(), first_pipe: Mutex::default() }
    }

    /// An agent whose connections are children of this link.
    pub(super) fn agent(link: &Arc<Self>, config: Config) -> Agent {
        Agent::with_parts(config, PipeConnector::new(Arc::clone(link)), NoResolver)
    }

    /// The base of all URLs; starts `ssh` if nobody did yet.
    pub(super) fn base(&self, left: Option<Duration>, stop: &dyn Fn() -> bool) -> Result<String, AttemptError> {
        if let Some(base) = &*lock(&self.base) {
            return Ok(base.clone());
        }
        let pipe = self.connect(left, stop)?;
        *lock(&self.first_pipe) = Some(pipe);
        Ok(lock(&self.base).clone().unwrap_or_else(|| format!("{AUTHORITY}/")))
    }

    /// The connection that is there already, else a new one.
    fn take(&self, left: Option<Duration>) -> Result<Pipe, AttemptError> {
        match lock(&self.first_pipe).take() {
            Some(pipe) => Ok(pipe),
            None => self.connect(left, &|| self.cancel.is_cancelled()),
        }
    }

    fn connect(&self, left: Option<Duration>, stop: &dyn Fn() -> bool) -> Result<Pipe, AttemptError> {
        let time = left.map_or(GREETING, |left| left.min(GREETING));
        let mut child = Child::start(&self.place, &self.settings, self.cancel.clone())?;
        let line = child.read_banner(time, stop)?;
        let base = self.check(&line).map_err(|mut error| {
            if let MirrorError::Transport(error) = &mut error {
                error.clean(&Secrets::default());
            }
            AttemptError::final_(error)
        })?;
        *lock(&self.base) = Some(format!("{AUTHORITY}{base}"));
        Pipe::new(child)
            .map_err(|error| attempt_error(TransportError::Ssh { what: error.to_string() }, RetryAction::Never))
    }

    /// The base path of the site that is meant, if the receiver has that.
    fn check(&self, line: &banner::BannerLine) -> Result<String, MirrorError> {
        let banner = match line {
            banner::BannerLine::Banner(banner) => banner,
            banner::BannerLine::OtherVersion(needed) => {
                return Err(
                    TransportError::Version { needed: needed.clone(), said: "its banner says so".into() }.into()
                );
            }
        };
        if !banner.protocols.contains(&VERSION) {
            let needed: Vec<String> = banner.protocols.iter().map(ToString::to_string).collect();
            let said = format!("it is headwater {}", banner.headwater);
            return Err(TransportError::Version { needed: needed.join(" or "), said }.into());
        }
        let site = self.find(banner)?;
        match (&self.site, &site.site) {
            (Some(wanted), Some(found)) if wanted != found => {
                Err(TransportError::OtherSite { found: found.clone(), wanted: wanted.clone() }.into())
            }
            _ if site.base.starts_with('/')
                && site.base.ends_with('/')
                && site.base.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(site.base.clone())
            }
            _ => Err(TransportError::NoReceiver { what: "a banner with a base that is none".into() }.into()),
        }
    }

    fn find<'b>(&self, banner: &'b Banner) -> Result<&'b BannerSite, MirrorError> {
        let wanted = std::path::Path::new(self.place.directory());
        banner.sites.iter().find(|site| site.directory == wanted).ok_or_else(|| {
            let serves: Vec<String> = banner.sites.iter().map(|site| site.directory.display().to_string()).collect();
            let serves = if serves.is_empty() { "nothing".to_owned() } else { serves.join(", ") };
            TransportError::OtherDirectory { serves, wanted: wanted.display().to_string() }.into()
        })
    }
}

/// What follows from a failure of `ssh`.
const fn attempt_error(error: TransportError, again: RetryAction) -> AttemptError {
    AttemptError { error: MirrorError::Transport(error), again }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::{ErrorKind, Location};

    fn link(site: Option<&str>) -> SshConnection {
        let Ok(Location::Ssh(place)) = Location::parse("ssh://h/srv/www") else { panic!("not ssh") };
        SshConnection::new(
            &place,
            &SshSettings::default(),
            site.map(|site| Site::new(site).unwrap()),
            CancelToken::default(),
        )
    }

    fn banner(directory: &str, site: Option<&str>, base: &str) -> banner::BannerLine {
        banner::BannerLine::Banner(Banner {
            headwater: "0.1.0".into(),
            protocols: vec![1],
            sites: vec![BannerSite {
                directory: directory.into(),
                site: site.map(|site| Site::new(site).unwrap()),
                base: base.into(),
            }],
        })
    }

    #[test]
    fn a_banner_must_have_the_directory_and_the_site_that_are_meant() {
        assert_eq!(link(Some("docs")).check(&banner("/srv/www", None, "/")).unwrap(), "/");
        assert_eq!(link(None).check(&banner("/srv/www/", Some("docs"), "/docs/")).unwrap(), "/docs/");
        let failure = |link: SshConnection, line: banner::BannerLine| link.check(&line).unwrap_err().kind();
        assert_eq!(failure(link(Some("docs")), banner("/srv/www", Some("news"), "/")), ErrorKind::OtherSite);
        assert_eq!(failure(link(None), banner("/srv/other", None, "/")), ErrorKind::Protocol);
        assert_eq!(failure(link(None), banner("/srv/www", None, "//evil.example")), ErrorKind::Protocol);
        assert_eq!(failure(link(None), banner::BannerLine::OtherVersion("2".into())), ErrorKind::Version);
    }
}
