//! Names of the users and groups on this machine.
//!
//! The names are looked up through the C library, so that LDAP and SSSD users are found too. Only
//! this module uses the crate `uzers`. It does not know what a user may do.

/// Describes the user with this id in messages: `user www-data`, or `user id 12345` if the user has
/// no name.
#[must_use]
pub fn describe_user(id: u32) -> String {
    match uzers::get_user_by_uid(id) {
        Some(user) => format!("user {}", user.name().display()),
        None => format!("user id {id}"),
    }
}

/// The name of the user this process runs as; `None` if the user has no name.
#[must_use]
pub fn own_name() -> Option<String> {
    let user = uzers::get_user_by_uid(uzers::get_current_uid())?;
    Some(user.name().to_string_lossy().into_owned())
}

/// The id of the group `name`; `None` if there is no such group.
#[must_use]
pub fn group_id(name: &str) -> Option<u32> {
    uzers::get_group_by_name(name).map(|group| group.gid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_without_a_name_is_shown_by_number() {
        assert_eq!(describe_user(0), "user root");
        assert_eq!(describe_user(3_999_999_999), "user id 3999999999");
    }

    #[test]
    fn group_is_found_by_its_full_name() {
        let list = std::fs::read_to_string("/etc/group").unwrap();
        let mut fields = list.lines().next().unwrap().split(':');
        let (name, id) = (fields.next().unwrap(), fields.nth(1).unwrap());
        assert_eq!(group_id(name), id.parse().ok());
        for unknown in ["no such group", "", "roo", "a\0b"] {
            assert_eq!(group_id(unknown), None, "{unknown:?}");
        }
    }
}
