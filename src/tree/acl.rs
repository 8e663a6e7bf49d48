//! POSIX access control lists: their xattr form, and how they follow a mode and are handed down.
//!
//! ```text
//!  0           4          6           8          12
//!  +-----------+----------+-----------+-----------+---- ...
//!  | version 2 | tag      | perm      | id        | next entry of 8 bytes
//!  +-----------+----------+-----------+-----------+---- ...
//!                <------------- one entry -------->
//! ```
//!
//! Integers are little-endian (`include/uapi/linux/posix_acl_xattr.h`). `id` means something for the
//! tags `USER` and `GROUP` only and is 2^32 - 1 for others. Entries come in the order
//! `USER_OBJ USER* GROUP_OBJ GROUP* MASK? OTHER`, as the kernel's `posix_acl_valid` wants them.
//!
//! Invariants: an [`Acl`] with a named user or group has a mask; every permission is at most 7.

/// Extended attribute that holds who may access an inode, where a mode cannot say it.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// Extended attribute that holds what a directory hands down to what is made in it.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
/// Bytes before the first entry; an ACL of no more says nothing.
pub const HEADER_LEN: usize = 4;
const ENTRY_LEN: usize = 8;
const UNDEFINED_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// A valid access control list. Permissions are the three bits of one class of a mode.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Acl {
    user: u32,
    users: Vec<Named>,
    group: u32,
    groups: Vec<Named>,
    mask: Option<u32>,
    other: u32,
}

/// What one user or group may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Named {
    id: u32,
    permissions: u32,
}

/// Why bytes are no ACL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AclError {
    /// A form this does not know (`EOPNOTSUPP`).
    Version,
    /// Cut short, an unknown tag, entries out of order, missing or too many (`EINVAL`).
    Invalid,
}

impl Acl {
    /// Whether `user` of `group` may do all of `rights` (three bits, as of one class of a mode) with what
    /// belongs to `owner` (user and group), as the kernel decides it: the first class that fits does.
    #[must_use]
    pub fn permits(&self, owner: (u32, u32), (user, group): (u32, u32), rights: u32) -> bool {
        let mask = self.mask.unwrap_or(7);
        if user == owner.0 {
            return self.user & rights == rights;
        }
        if let Some(named) = self.users.iter().find(|named| named.id == user) {
            return named.permissions & mask & rights == rights;
        }
        let named = self.groups.iter().filter(|named| named.id == group);
        let mut groups = (group == owner.1)
            .then_some(self.group)
            .into_iter()
            .chain(named.map(|named| named.permissions))
            .peekable();
        if groups.peek().is_some() {
            return groups.any(|permissions| permissions & mask & rights == rights);
        }
        self.other & rights == rights
    }

    /// Parses the xattr form. `None` for one without entries: setting it removes the ACL.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, AclError> {
        let (version, entries) = bytes.split_first_chunk().ok_or(AclError::Invalid)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(AclError::Version);
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let (entries, rest) = entries.as_chunks::<ENTRY_LEN>();
        if !rest.is_empty() {
            return Err(AclError::Invalid);
        }
        let mut acl =
            Self { user: 0, users: vec![], group: 0, groups: vec![], mask: None, other: 0 };
        // Tags that may come next; none after OTHER.
        let mut next = USER_OBJ;
        for &[tag0, tag1, perm0, perm1, id0, id1, id2, id3] in entries {
            let tag = u16::from_le_bytes([tag0, tag1]);
            let permissions = u32::from(u16::from_le_bytes([perm0, perm1]));
            let id = u32::from_le_bytes([id0, id1, id2, id3]);
            if permissions > 7 || next & tag == 0 || !tag.is_power_of_two() {
                return Err(AclError::Invalid);
            }
            let named = Named { id, permissions };
            next = match tag {
                USER_OBJ => {
                    acl.user = permissions;
                    USER | GROUP_OBJ
                }
                USER if id != UNDEFINED_ID => {
                    acl.users.push(named);
                    USER | GROUP_OBJ
                }
                GROUP_OBJ => {
                    acl.group = permissions;
                    GROUP | MASK | OTHER
                }
                GROUP if id != UNDEFINED_ID => {
                    acl.groups.push(named);
                    GROUP | MASK | OTHER
                }
                MASK => {
                    acl.mask = Some(permissions);
                    OTHER
                }
                OTHER => {
                    acl.other = permissions;
                    0
                }
                _ => return Err(AclError::Invalid),
            };
        }
        let needs_mask = !acl.users.is_empty() || !acl.groups.is_empty();
        if next != 0 || (needs_mask && acl.mask.is_none()) {
            return Err(AclError::Invalid);
        }
        Ok(Some(acl))
    }

    /// Appends the xattr form to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let entries = 4 + self.users.len() + self.groups.len();
        out.reserve(HEADER_LEN + entries * ENTRY_LEN);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let mut entry = |tag: u16, permissions: u32, id: u32| {
            out.extend_from_slice(&(u32::from(tag) | permissions << 16).to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        };
        entry(USER_OBJ, self.user, UNDEFINED_ID);
        for named in &self.users {
            entry(USER, named.permissions, named.id);
        }
        entry(GROUP_OBJ, self.group, UNDEFINED_ID);
        for named in &self.groups {
            entry(GROUP, named.permissions, named.id);
        }
        if let Some(mask) = self.mask {
            entry(MASK, mask, UNDEFINED_ID);
        }
        entry(OTHER, self.other, UNDEFINED_ID);
    }

    /// The nine permission bits of a mode that goes with this ACL: the group class shows the mask,
    /// where there is one.
    #[must_use]
    pub fn permissions(&self) -> u32 {
        self.user << 6 | self.mask.unwrap_or(self.group) << 3 | self.other
    }

    /// Whether it says no more than a mode does.
    #[must_use]
    pub fn is_mode(&self) -> bool {
        self.mask.is_none()
    }

    /// Follows a `chmod` to `mode`: the group class goes to the mask, where there is one.
    pub fn chmod(&mut self, mode: u32) {
        self.user = mode >> 6 & 7;
        *self.mask.as_mut().unwrap_or(&mut self.group) = mode >> 3 & 7;
        self.other = mode & 7;
    }

    /// Makes this default ACL the access ACL of something made with `mode`, and returns the mode that
    /// goes with it: in each class, what both allow. Bits of `mode` above the nine stay.
    pub fn inherit(&mut self, mode: u32) -> u32 {
        self.user &= mode >> 6;
        *self.mask.as_mut().unwrap_or(&mut self.group) &= mode >> 3;
        self.other &= mode;
        mode & !0o777 | self.permissions()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(acl: &Acl) -> Vec<u8> {
        let mut out = Vec::new();
        acl.encode(&mut out);
        out
    }

    fn form(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for &(tag, permissions, id) in entries {
            out.extend(tag.to_le_bytes());
            out.extend(permissions.to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }

    const NONE: u32 = UNDEFINED_ID;

    fn any_acl() -> impl Strategy<Value = Acl> {
        let named = || {
            proptest::collection::vec((0..9999_u32, 0..8_u32), 0..4).prop_map(|all| {
                all.into_iter().map(|(id, permissions)| Named { id, permissions }).collect()
            })
        };
        (0..8_u32, named(), 0..8_u32, named(), proptest::option::of(0..8_u32), 0..8_u32).prop_map(
            |(user, users, group, groups, mask, other)| {
                let users: Vec<Named> = users;
                let groups: Vec<Named> = groups;
                let named = !users.is_empty() || !groups.is_empty();
                let mask = mask.or(named.then_some(5));
                Acl { user, users, group, groups, mask, other }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_parses_to_the_same(acl in any_acl()) {
            prop_assert_eq!(Acl::parse(&bytes(&acl)), Ok(Some(acl)));
        }

        #[test]
        fn any_bytes_parse_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Acl::parse(&bytes);
        }

        #[test]
        fn any_entries_that_parse_are_encoded_to_as_many_bytes(
            entries in proptest::collection::vec((0..8_u32, 0..9_u16, any::<u32>()), 0..7)
        ) {
            let entries: Vec<_> = entries.into_iter().map(|(bit, p, id)| (1 << bit, p, id)).collect();
            let given = form(&entries);
            if let Ok(Some(acl)) = Acl::parse(&given) {
                prop_assert_eq!(bytes(&acl).len(), given.len());
            }
        }

        #[test]
        fn after_a_chmod_the_acl_shows_that_mode(acl in any_acl(), mode in 0..0o10000_u32) {
            let mut changed = acl.clone();
            changed.chmod(mode);
            prop_assert_eq!(changed.permissions(), mode & 0o777);
            prop_assert_eq!(&changed.users, &acl.users);
            if acl.mask.is_some() {
                prop_assert_eq!(changed.group, acl.group);
            }
        }

        #[test]
        fn what_is_inherited_allows_no_class_more_than_either_side(acl in any_acl(), mode in 0..0o10000_u32) {
            let mut made = acl.clone();
            let got = made.inherit(mode);
            prop_assert_eq!(got & !0o777, mode & !0o777);
            prop_assert_eq!(got & 0o777, mode & acl.permissions() & 0o777);
            prop_assert_eq!(got & 0o777, made.permissions());
        }
    }

    #[test]
    fn an_acl_without_entries_is_none_and_another_version_is_named() {
        assert_eq!(Acl::parse(&form(&[])), Ok(None));
        assert_eq!(Acl::parse(&[3, 0, 0, 0]), Err(AclError::Version));
        assert_eq!(Acl::parse(&[]), Err(AclError::Invalid));
    }

    #[test]
    fn entries_out_of_order_missing_or_doubled_are_refused() {
        let user = (USER_OBJ, 7, NONE);
        let group = (GROUP_OBJ, 5, NONE);
        let other = (OTHER, 4, NONE);
        assert!(Acl::parse(&form(&[user, group, other])).is_ok());
        for wrong in [
            &[user, group][..],
            &[group, user, other],
            &[user, user, group, other],
            &[user, group, other, other],
            &[user, (USER, 7, 5), group, other],
            &[user, group, (MASK, 7, NONE), (MASK, 7, NONE), other],
            &[user, (USER, 7, NONE), group, (MASK, 7, NONE), other],
            &[(USER_OBJ, 8, NONE), group, other],
            &[(USER_OBJ | GROUP_OBJ, 7, NONE), group, other],
            &[(0, 7, NONE), group, other],
        ] {
            assert_eq!(Acl::parse(&form(wrong)), Err(AclError::Invalid), "{wrong:?}");
        }
    }
}
