//! Who may read what a site serves: a group by name, found on this machine.

use std::path::Path;

use crate::fsx::{self, IoError};
use crate::store::{ContentMode, DirectoryMode, Permissions};

/// Where groups are listed, `name:password:id:members` a line.
const GROUPS: &str = "/etc/group";
/// More is no list of groups.
const MAX_GROUPS_BYTES: u64 = 16 << 20;

/// Group and modes of what a site serves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Readers {
    /// Name or number of the group; nothing: that of whoever serves.
    pub group: Option<String>,
    /// Mode of files.
    pub file_mode: ContentMode,
    /// Mode of directories.
    pub dir_mode: DirectoryMode,
}

/// Why files cannot be given to a group.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The list cannot be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// It is not in the list.
    #[error("{GROUPS} has no group {0:?}")]
    Unknown(String),
    /// The system would refuse it.
    #[error("user id {user} is no member of group {group:?} and cannot give files to it")]
    NotMember {
        /// Who serves.
        user: u32,
        /// The group.
        group: String,
    },
}

impl Readers {
    /// The permissions that they come to here.
    ///
    /// # Errors
    /// A group that is not known here, or that files cannot be given to.
    pub(super) fn permissions(&self) -> Result<Permissions, GroupError> {
        let group = self.group.as_deref().map(usable_group).transpose()?;
        Ok(Permissions { group, file_mode: self.file_mode, dir_mode: self.dir_mode })
    }
}

fn usable_group(name: &str) -> Result<u32, GroupError> {
    use rustix::process::{getegid, geteuid, getgroups};
    let group = match name.parse() {
        Ok(number) => number,
        Err(_) => {
            let list = fsx::read_text(Path::new(GROUPS), MAX_GROUPS_BYTES)?;
            find_group(&list, name).ok_or_else(|| GroupError::Unknown(name.to_owned()))?
        }
    };
    let user = geteuid();
    let is_member = || getgroups().is_ok_and(|groups| groups.iter().any(|member| member.as_raw() == group));
    if user.is_root() || getegid().as_raw() == group || is_member() {
        return Ok(group);
    }
    Err(GroupError::NotMember { user: user.as_raw(), group: name.to_owned() })
}

/// The id of a group in a list of groups.
fn find_group(list: &str, name: &str) -> Option<u32> {
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() == Some(name) { fields.nth(1)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let list = "root:x:0:\nwww-data:x:33:deploy,www\nwww:x:999:\nbroken:x\n";
        assert_eq!(
            ["www-data", "www", "broken", "deploy", ""].map(|name| find_group(list, name)),
            [Some(33), Some(999), None, None, None]
        );
    }

    #[test]
    fn a_group_is_one_that_files_can_be_given_to() {
        let of = |group: &str| Readers { group: Some(group.to_owned()), ..Readers::default() }.permissions();
        let own = rustix::process::getegid().as_raw();
        assert_eq!(of(&own.to_string()).unwrap().group, Some(own));
        assert!(matches!(of("no such group"), Err(GroupError::Unknown(_))));
        assert_eq!(Readers::default().permissions().unwrap(), Permissions::default());
        if !rustix::process::geteuid().is_root() {
            assert!(matches!(of("4000000000"), Err(GroupError::NotMember { .. })));
        }
    }
}
