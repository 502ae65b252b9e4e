//! The site of a push: the one that the user named, or that of the mirrors.
//!
//! Pure. The site that a mirror reports takes precedence over the one in its location. If no mirror
//! has a site in either place, the site is [`Site::default`].

use crate::mirror::PolledMirror;
use crate::push::PushError;
use crate::tree_path::Site;

/// A mirror and its site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteOfMirror {
    /// The name of the mirror.
    pub mirror: String,
    /// The site.
    pub site: Site,
}

/// The site of a push to `members`: `named`, if the user named one. Otherwise, it is the site of
/// their stores. If no member has a store, it is the site that their receivers are configured for
/// or, failing that, the site in their locations. The site of `from`, the source mirror, counts
/// like those of the members.
///
/// # Errors
/// [`PushError::SitesDiffer`] if no site was named and the mirrors have different sites.
pub(super) fn resolve(
    named: Option<&Site>,
    members: &[PolledMirror],
    from: Option<&PolledMirror>,
) -> Result<Site, PushError> {
    if let Some(site) = named {
        return Ok(site.clone());
    }
    let all = || from.into_iter().chain(members);
    match common_site(all(), |member| member.site().cloned())? {
        Some(site) => Ok(site),
        None => {
            Ok(common_site(all(), |member| member.mirror.site_in_location())?.unwrap_or_default())
        }
    }
}

/// The site that `site_of` returns for every member that has one; `None` if no member has one.
fn common_site<'m>(
    members: impl Iterator<Item = &'m PolledMirror>,
    site_of: impl Fn(&PolledMirror) -> Option<Site>,
) -> Result<Option<Site>, PushError> {
    let named = |member: &PolledMirror| {
        Some(SiteOfMirror { mirror: member.mirror.name().to_owned(), site: site_of(member)? })
    };
    let mirrors: Vec<SiteOfMirror> = members.filter_map(named).collect();
    match mirrors.first() {
        Some(first) if mirrors.iter().any(|one| one.site != first.site) => {
            Err(PushError::SitesDiffer { mirrors })
        }
        first => Ok(first.map(|first| first.site.clone())),
    }
}

/// The mirrors grouped by site, as in `"docs" on eu, us; "news" on asia`.
pub(super) fn by_site(mirrors: &[SiteOfMirror]) -> String {
    let mut sites: Vec<(&Site, Vec<&str>)> = Vec::new();
    for one in mirrors {
        match sites.iter_mut().find(|(site, _)| **site == one.site) {
            Some((_, names)) => names.push(&one.mirror),
            None => sites.push((&one.site, vec![&one.mirror])),
        }
    }
    let texts: Vec<String> = sites
        .iter()
        .map(|(site, names)| format!("{:?} on {}", site.as_str(), names.join(", ")))
        .collect();
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::mirror::{DirectoryMirror, MirrorError, MirrorIdentity, MirrorState};

    fn site(name: &str) -> Site {
        Site::new(name).unwrap()
    }

    /// A mirror whose store has the first site, or whose receiver accepts only the second; with an
    /// error, a mirror that cannot be reached.
    fn member(
        name: &str,
        state: Result<(Option<&str>, Option<&str>), MirrorError>,
    ) -> PolledMirror {
        let identity =
            MirrorIdentity { name: name.to_owned(), location: name.to_owned(), site: None };
        let mirror = DirectoryMirror::new(identity, name.into(), Duration::ZERO, NonZeroUsize::MIN);
        let state = state.map(|(of_store, of_receiver)| MirrorState {
            site: of_store.map(site),
            only_site: of_receiver.map(site),
            ..MirrorState::default()
        });
        PolledMirror::new(Arc::new(mirror), state)
    }

    #[test]
    fn site_is_the_given_one_or_that_of_the_mirrors_or_the_default() {
        let docs = || member("a", Ok((Some("docs"), None)));
        let bound = || member("b", Ok((None, Some("docs"))));
        let empty = || member("c", Ok((None, None)));
        let dead = || member("d", Err(MirrorError::Cancelled));
        let resolved = |named: Option<&str>, members: &[PolledMirror]| {
            resolve(named.map(site).as_ref(), members, None)
        };
        assert_eq!(resolved(Some("www"), &[docs()]).unwrap(), site("www"));
        assert_eq!(resolved(None, &[empty(), dead(), docs(), bound()]).unwrap(), site("docs"));
        assert_eq!(resolved(None, &[bound(), empty()]).unwrap(), site("docs"));
        assert_eq!(resolved(None, &[empty(), dead()]).unwrap(), Site::default());
    }

    #[test]
    fn mirrors_of_different_sites_are_named_with_their_sites() {
        let members =
            [member("a", Ok((Some("docs"), None))), member("b", Ok((None, Some("news"))))];
        let from = member("hub", Ok((Some("docs"), None)));
        let error = resolve(None, &members, Some(&from)).unwrap_err();
        assert!(error.to_string().contains(r#""docs" on hub, a; "news" on b"#), "{error}");
    }
}
