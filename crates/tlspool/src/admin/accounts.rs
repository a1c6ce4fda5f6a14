//! Users and groups by name and number, for rules.

use super::AdminError;
use crate::users;

/// The number of the user called `name` (or numbered so).
pub(super) fn uid(name: &str) -> Result<u32, AdminError> {
    let user = users::user(name).map(|user| user.uid);
    user.ok_or_else(|| {
        AdminError::Usage(format!("there is no user {name:?}; give a name or a uid"))
    })
}

/// The number of the group called `name` (or numbered so).
pub(super) fn gid(name: &str) -> Result<u32, AdminError> {
    let group = users::group(name);
    group.ok_or_else(|| {
        AdminError::Usage(format!("there is no group {name:?}; give a name or a gid"))
    })
}

/// The user's name, or the number if there is none.
pub(super) fn user_name(uid: u32) -> String {
    users::user_of(uid).map_or_else(|| uid.to_string(), |user| user.name)
}

/// The group's name, or the number if there is none.
pub(super) fn group_name(gid: u32) -> String {
    // For show only, so groups from elsewhere than /etc/group may stand there by number.
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| gid.to_string())
}
