//! Stands in for `fusermount`, which polyfuse runs to mount: so none need be installed.
//!
//! It is this program again, told by a variable which inherited socket to hand the device over on.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use lighthouse_fuse::transport::mount::{self, MountOptions};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

pub(super) const SOCKET_VARIABLE: &str = "LIGHTHOUSE_BENCH_SOCKET";

/// Mounts where the last argument says, and hands over the device; `None` where nobody asked for that.
pub(crate) fn hand_over() -> Option<Result<(), Box<dyn std::error::Error>>> {
    let socket = std::env::var(SOCKET_VARIABLE).ok()?;
    Some(mount_and_send(&socket))
}

fn mount_and_send(socket: &str) -> Result<(), Box<dyn std::error::Error>> {
    // What was inherited under a number becomes owned, without trusting the number.
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty())?;
    let socket: OwnedFd = pidfd_getfd(&ourselves, socket.parse()?, PidfdGetfdFlags::empty())?;
    let at = std::env::args_os().next_back().map(PathBuf::from).ok_or("no mountpoint")?;
    // Beside it lies no store, but what is checked is only that it is another directory.
    let store = at.with_file_name("store");
    let options = MountOptions::new(store.clone());
    let (device, _) = mount::check(&at, &store, false)?.prepare()?.mount(&options)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let devices = [device.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&devices)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
    }
    rustix::net::sendmsg(&socket, &[IoSlice::new(b"\0")], &mut control, SendFlags::empty())?;
    Ok(())
}
