//! What only the set-user-id helper `fusermount3` may do for users who are not root.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const HELPER: &str = "fusermount3";

fn absent(e: io::Error) -> io::Error {
    if e.kind() == io::ErrorKind::NotFound {
        let text = "only root may mount without fusermount3: install the package fuse3";
        return io::Error::new(io::ErrorKind::NotFound, text);
    }
    e
}

/// Mounts through the helper; returns the open FUSE device.
pub fn mount(dir: &Path, options: &OsStr) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let fd = theirs.as_raw_fd();
    let mut command = Command::new(HELPER);
    command.arg("-o").arg(options).arg("--").arg(dir);
    command.env("_FUSE_COMMFD", fd.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: fcntl is async-signal-safe; the child keeps the socket, which is what it is for.
    unsafe {
        command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let mut child = command.spawn().map_err(absent)?;
    drop(theirs);
    let device = receive(&ours);
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // Only for the message.
        let _ = stderr.read_to_string(&mut said);
    }
    child.wait()?;
    device.map_err(|e| match said.trim() {
        "" => e,
        said => io::Error::new(io::ErrorKind::PermissionDenied, said.to_owned()),
    })
}

/// Unmounts through the helper.
pub fn unmount(dir: &Path, lazy: bool) -> io::Result<()> {
    let mut command = Command::new(HELPER);
    command.arg(if lazy { "-uz" } else { "-u" });
    let out = command.arg("--").arg(dir).stdin(Stdio::null()).output().map_err(absent)?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    if said.contains("busy") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Err(io::Error::other(said))
}

/// Receives one file descriptor.
fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0u8];
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // Aligned room for one control message that holds one descriptor.
    let mut control = [0u64; 8];
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message points to live buffers of the lengths it says.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel filled the message in; the header is checked before its data are read.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if n == 0
            || header.is_null()
            || (*header).cmsg_level != libc::SOL_SOCKET
            || (*header).cmsg_type != libc::SCM_RIGHTS
        {
            return Err(io::Error::other("fusermount3 did not mount"));
        }
        let fd = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned();
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
