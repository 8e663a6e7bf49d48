//! `/dev/fuse` as hosts have it on which users may mount.

use std::fs;
use std::os::unix::fs::PermissionsExt;

/// Lets everybody open `/dev/fuse`, as udev does, until dropped.
pub(crate) struct OpenDevice(fs::Permissions);

impl OpenDevice {
    pub(crate) fn for_all() -> Self {
        let before = fs::metadata("/dev/fuse").unwrap().permissions();
        fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o666)).unwrap();
        Self(before)
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        fs::set_permissions("/dev/fuse", self.0.clone()).unwrap();
    }
}
