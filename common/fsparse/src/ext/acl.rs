//! POSIX ACLs: from the short form of the disk to the value that `getxattr` gives.
//!
//! SOURCE: Linux `fs/ext4/acl.h` and `acl.c` (`ext4_acl_from_disk`),
//! `include/uapi/linux/posix_acl_xattr.h`.

use alloc::vec::Vec;

use super::fields::Fields;
use crate::Result;

const DISK_VERSION: u32 = 1;
const VFS_VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Returns the ACL in version 2 of the VFS; errors name the structure of `outer`.
pub(super) fn to_vfs(outer: &Fields<'_>, value: &[u8]) -> Result<Vec<u8>> {
    let fields = Fields::new("POSIX ACL", crate::ByteOffset(0), value);
    let damaged = || outer.corrupt("a POSIX ACL is malformed");
    if fields.u32(0).map_err(|_| damaged())? != DISK_VERSION {
        return Err(outer.unsupported("an unknown version of POSIX ACLs"));
    }
    let mut vfs = VFS_VERSION.to_le_bytes().to_vec();
    let mut at = 4usize;
    while at < value.len() {
        let tag = fields.u16(at).map_err(|_| damaged())?;
        let permissions = fields.u16(at.saturating_add(2)).map_err(|_| damaged())?;
        let (id, len) = match tag {
            USER | GROUP => (fields.u32(at.saturating_add(4)).map_err(|_| damaged())?, 8),
            USER_OBJ | GROUP_OBJ | MASK | OTHER => (NO_ID, 4),
            _ => return Err(damaged()),
        };
        vfs.extend_from_slice(&tag.to_le_bytes());
        vfs.extend_from_slice(&permissions.to_le_bytes());
        vfs.extend_from_slice(&id.to_le_bytes());
        at = at.saturating_add(len);
    }
    Ok(vfs)
}
