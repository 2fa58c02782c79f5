//! Who asks, and what a change of theirs does to set-id bits.

use crate::fs::NewInode;
use fuser::Request;

/// Changes of content by this caller take set-id bits away. Only for writes does the kernel say so
/// itself (`FUSE_WRITE_KILL_SUIDGID`).
pub fn kills_set_id(req: &Request) -> bool {
    req.uid() != 0
}

/// True for root and for who is in this group. The kernel names the first group only, so the others are looked up, while
/// the caller waits; nobody is taken to be in the groups of a process that cannot be seen from here.
pub fn is_in_group(req: &Request, gid: u32) -> bool {
    let is_member = || {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", req.pid())).unwrap_or_default();
        groups(&status).any(|g| g == gid)
    };
    req.uid() == 0 || req.gid() == gid || is_member()
}

/// The supplementary groups in a status of proc(5).
fn groups(status: &str) -> impl Iterator<Item = u32> {
    let line = status.lines().find_map(|l| l.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|g| g.parse().ok())
}

/// A new inode is its maker's.
pub fn new_inode(req: &Request, mode: u32, umask: u32) -> NewInode<'static> {
    NewInode { mode, umask, rdev: 0, uid: req.uid(), gid: req.gid(), target: None }
}

#[cfg(test)]
mod tests {
    use super::groups;

    #[test]
    fn groups_of_a_status() {
        let status = "Name:\tcat\nGid:\t7\t7\t7\t7\nFDSize:\t64\nGroups:\t4 24 1000 \nNStgid:\t9\n";
        assert!(groups(status).eq([4, 24, 1000]));
        assert_eq!(groups("Groups:\t \n").chain(groups("")).count(), 0);
    }
}
