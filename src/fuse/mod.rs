//! The kernel's side: mount, adaptor (unpack, call, reply), unmount.

mod adaptor;
mod caller;
mod errno;
mod helper;
mod mount;
mod reply;
mod walk;

pub use mount::{MountError, MountOptions, Session, Unmounter, detach, mount, remount, unmount};
