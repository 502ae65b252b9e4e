//! Permissions of the served files: modes, and a group looked up on this machine.

use crate::store::{ContentMode, DirectoryMode, Permissions};
use crate::users;

/// The group and modes of the files that a site serves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServedPermissions {
    /// Name or number of the group; `None` for the receiver process's group.
    pub group: Option<String>,
    /// Mode of files.
    pub file_mode: ContentMode,
    /// Mode of directories.
    pub dir_mode: DirectoryMode,
}

/// Why a site's files cannot be given to a group.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// This machine does not have this group.
    #[error("there is no group {0:?} on this machine")]
    Unknown(String),
    /// The receiver's user is not a member of the group, so the system would refuse the change.
    #[error(
        "{} is not a member of group {group:?} and cannot give files to that group",
        users::describe_user(*user)
    )]
    NotMember {
        /// The id of the receiver's user.
        user: u32,
        /// The group.
        group: String,
    },
}

impl ServedPermissions {
    /// Resolves the group on this machine.
    ///
    /// # Errors
    /// Fails if the group is unknown, or if files cannot be given to the group.
    pub(crate) fn permissions(&self) -> Result<Permissions, GroupError> {
        let group = self.group.as_deref().map(usable_group).transpose()?;
        Ok(Permissions { group, file_mode: self.file_mode, dir_mode: self.dir_mode })
    }
}

fn usable_group(name: &str) -> Result<u32, GroupError> {
    use rustix::process::{getegid, geteuid, getgroups};
    let number = name.parse().ok().or_else(|| users::group_id(name));
    let group = number.ok_or_else(|| GroupError::Unknown(name.to_owned()))?;
    let user = geteuid();
    let is_member =
        || getgroups().is_ok_and(|groups| groups.iter().any(|member| member.as_raw() == group));
    if user.is_root() || getegid().as_raw() == group || is_member() {
        return Ok(group);
    }
    Err(GroupError::NotMember { user: user.as_raw(), group: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_must_be_assignable_to_files() {
        let of = |group: &str| {
            ServedPermissions { group: Some(group.to_owned()), ..ServedPermissions::default() }
                .permissions()
        };
        let own = rustix::process::getegid().as_raw();
        assert_eq!(of(&own.to_string()).unwrap().group, Some(own));
        assert!(matches!(of("no such group"), Err(GroupError::Unknown(_))));
        assert_eq!(ServedPermissions::default().permissions().unwrap(), Permissions::default());
        if !rustix::process::geteuid().is_root() {
            assert!(matches!(of("4000000000"), Err(GroupError::NotMember { .. })));
        }
        let refused = GroupError::NotMember { user: 0, group: "www".to_owned() }.to_string();
        assert_eq!(
            refused,
            "user root is not a member of group \"www\" and cannot give files to that group"
        );
    }
}
