//! Connections over `ssh`: HTTP over the standard input and output of a child process.
//!
//! Promises that no part of a location or of a response becomes an option or a command, and that no
//! child outlives its connection. Does not know the requests that are sent over it.

mod banner;
mod child;
mod command;
mod transport;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ureq::Agent;
use ureq::config::Config;

use crate::cancel::CancelToken;
use crate::mirror::MirrorError;
use crate::mirror::attempt::{AttemptError, RetryAction};
use crate::mirror::location::SshUrl;
use crate::mirror::transport_error::TransportError;
use crate::protocol::{Banner, BannerSite, VERSION};
use crate::text::Secrets;
use crate::tree_path::Site;

use child::Child;
pub use command::{ParseReceiveCommandError, ParseSshCommandError, ReceiveCommand, SshCommand};
use transport::{NoResolver, SshConnector, SshTransport};

/// The time limit from the start of `ssh` to the banner.
const BANNER_TIMEOUT: Duration = Duration::from_secs(60);
/// A placeholder for the host in URLs: all requests go to the child process.
const AUTHORITY: &str = "http://receiver";

/// The settings for calling `ssh`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshSettings {
    /// The program and its first arguments.
    pub command: SshCommand,
    /// The command that runs on the remote machine, without `receive` and the directory, which are
    /// appended.
    pub receiver: ReceiveCommand,
    /// The only accepted host key, as in `ssh-ed25519 AAAA…`; `None` to leave the choice to `ssh`'s
    /// configuration.
    pub host_key: Option<String>,
    /// Environment variables that `ssh` does not inherit, in addition to
    /// [`crate::command::TOKEN_VARIABLE`].
    pub secret_variables: Vec<String>,
}

/// Starts `ssh` processes for one receiver.
pub(super) struct SshConnection {
    url: SshUrl,
    settings: SshSettings,
    site: Option<Site>,
    cancel: CancelToken,
    /// The base URL, which is known after the first banner.
    base: Mutex<Option<String>>,
    /// The connection that was opened to read the banner; the first request uses it.
    first_transport: Mutex<Option<SshTransport>>,
}

impl fmt::Debug for SshConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshConnection")
            .field("place", &self.url)
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

impl SshConnection {
    pub(super) fn new(
        url: &SshUrl,
        settings: &SshSettings,
        site: Option<Site>,
        cancel: CancelToken,
    ) -> Self {
        let (url, settings) = (url.clone(), settings.clone());
        Self {
            url,
            settings,
            site,
            cancel,
            base: Mutex::default(),
            first_transport: Mutex::default(),
        }
    }

    /// Creates an agent whose connections are `ssh` processes.
    pub(super) fn agent(link: &Arc<Self>, config: Config) -> Agent {
        Agent::with_parts(config, SshConnector::new(Arc::clone(link)), NoResolver)
    }

    /// Returns the base URL. Starts `ssh` if the URL is not known yet.
    pub(super) fn base(
        &self,
        left: Option<Duration>,
        stop: &dyn Fn() -> bool,
    ) -> Result<String, AttemptError> {
        if let Some(base) = &*self.base.lock() {
            return Ok(base.clone());
        }
        let pipe = self.connect(left, stop)?;
        *self.first_transport.lock() = Some(pipe);
        Ok(self.base.lock().clone().unwrap_or_else(|| format!("{AUTHORITY}/")))
    }

    /// Returns the connection that [`Self::base`] opened, or a new one.
    fn take_or_connect(&self, left: Option<Duration>) -> Result<SshTransport, AttemptError> {
        match self.first_transport.lock().take() {
            Some(pipe) => Ok(pipe),
            None => self.connect(left, &|| self.cancel.is_cancelled()),
        }
    }

    fn connect(
        &self,
        left: Option<Duration>,
        stop: &dyn Fn() -> bool,
    ) -> Result<SshTransport, AttemptError> {
        let time = left.map_or(BANNER_TIMEOUT, |left| left.min(BANNER_TIMEOUT));
        let mut child = Child::start(&self.url, &self.settings, self.cancel.clone())?;
        let line = child.read_banner(time, stop)?;
        // The text of the banner comes from a peer.
        let base = self.check_banner(&line).map_err(|mut error| {
            if let MirrorError::Transport(error) = &mut error {
                error.clean(&Secrets::default());
            }
            AttemptError::final_(error)
        })?;
        *self.base.lock() = Some(format!("{AUTHORITY}{base}"));
        SshTransport::new(child).map_err(|error| {
            attempt_error(TransportError::Ssh { what: error.to_string() }, RetryAction::Never)
        })
    }

    /// Checks the banner and returns the base path of the site.
    fn check_banner(&self, line: &banner::BannerLine) -> Result<String, MirrorError> {
        let banner = match line {
            banner::BannerLine::Banner(banner) => banner,
            banner::BannerLine::OtherVersion(needed) => {
                return Err(TransportError::Version {
                    needed: needed.clone(),
                    message: "according to its banner".into(),
                }
                .into());
            }
        };
        if !banner.protocols.contains(&VERSION) {
            let needed: Vec<String> = banner.protocols.iter().map(ToString::to_string).collect();
            let message = format!("it is headwater {}", banner.headwater);
            return Err(TransportError::Version { needed: needed.join(" or "), message }.into());
        }
        let site = self.find_site(banner)?;
        match (&self.site, &site.site) {
            (Some(wanted), Some(found)) if wanted != found => {
                Err(TransportError::OtherSite { found: found.clone(), wanted: wanted.clone() }
                    .into())
            }
            // The base becomes part of each request line.
            _ if site.base.starts_with('/')
                && site.base.ends_with('/')
                && site.base.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(site.base.clone())
            }
            _ => Err(TransportError::NoReceiver {
                what: "its banner has a malformed base path".into(),
            }
            .into()),
        }
    }

    fn find_site<'b>(&self, banner: &'b Banner) -> Result<&'b BannerSite, MirrorError> {
        let wanted = std::path::Path::new(self.url.directory());
        banner.sites.iter().find(|site| site.directory == wanted).ok_or_else(|| {
            let serves: Vec<String> =
                banner.sites.iter().map(|site| site.directory.display().to_string()).collect();
            let serves = if serves.is_empty() { "nothing".to_owned() } else { serves.join(", ") };
            TransportError::OtherDirectory { serves, wanted: wanted.display().to_string() }.into()
        })
    }
}

const fn attempt_error(error: TransportError, retry: RetryAction) -> AttemptError {
    AttemptError { error: MirrorError::Transport(error), retry }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::{ErrorKind, Location};

    fn link(site: Option<&str>) -> SshConnection {
        let Ok(Location::Ssh(place)) = Location::parse("ssh://h/srv/www") else {
            panic!("not ssh")
        };
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
    fn banner_with_another_directory_or_site_is_refused() {
        assert_eq!(link(Some("docs")).check_banner(&banner("/srv/www", None, "/")).unwrap(), "/");
        assert_eq!(
            link(None).check_banner(&banner("/srv/www/", Some("docs"), "/docs/")).unwrap(),
            "/docs/"
        );
        let failure = |link: SshConnection, line: banner::BannerLine| {
            link.check_banner(&line).unwrap_err().kind()
        };
        assert_eq!(
            failure(link(Some("docs")), banner("/srv/www", Some("news"), "/")),
            ErrorKind::OtherSite
        );
        assert_eq!(failure(link(None), banner("/srv/other", None, "/")), ErrorKind::Protocol);
        assert_eq!(
            failure(link(None), banner("/srv/www", None, "//evil.example")),
            ErrorKind::Protocol
        );
        assert_eq!(
            failure(link(None), banner::BannerLine::OtherVersion("2".into())),
            ErrorKind::Version
        );
    }
}
