//! POSIX access control lists, as Linux has them (acl(5), after IEEE 1003.1e draft 17). The kernel
//! checks them; here they are kept as the extended attributes that it asks for, in step with the mode.

/// The attribute of the list that governs access.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of a directory's list for what is made in it.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// First word of the attributes.
const VERSION: u32 = 2;
/// Permission bits of an entry.
const RWX: u16 = 7;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A list that is complete: the file's owner, its group and others, and a mask if anybody is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

impl Acl {
    /// Reads an attribute's value: a version (u32), then entries of tag and permissions (u16) and
    /// user or group (u32), all little-endian.
    pub fn decode(value: &[u8]) -> Option<Self> {
        let (version, rest) = value.split_first_chunk::<4>()?;
        let (entries, []) = rest.as_chunks::<8>() else { return None };
        if u32::from_le_bytes(*version) != VERSION {
            return None;
        }
        let entry = |&[a, b, c, d, id @ ..]: &[u8; 8]| Entry {
            tag: u16::from_le_bytes([a, b]),
            perm: u16::from_le_bytes([c, d]),
            id: u32::from_le_bytes(id),
        };
        let acl = Self(entries.iter().map(entry).collect());
        let count = |tag| acl.0.iter().filter(|e| e.tag == tag).count();
        let known = |e: &Entry| {
            matches!(e.tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER) && e.perm <= RWX
        };
        let named = count(USER) + count(GROUP) > 0;
        let masked = if named { count(MASK) == 1 } else { count(MASK) <= 1 };
        let whole = [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| count(tag) == 1);
        (acl.0.iter().all(known) && whole && masked).then_some(acl)
    }

    /// The attribute's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for e in &self.0 {
            out.extend_from_slice(&e.tag.to_le_bytes());
            out.extend_from_slice(&e.perm.to_le_bytes());
            out.extend_from_slice(&e.id.to_le_bytes());
        }
        out
    }

    /// True if the mode says all that the list says.
    pub fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// The entries that stand for owner, group and others in a mode: the mask, if there is one, for
    /// the group.
    fn classes(&mut self) -> impl Iterator<Item = (&mut u16, u32)> {
        let group = if self.0.iter().any(|e| e.tag == MASK) { MASK } else { GROUP_OBJ };
        self.0.iter_mut().filter_map(move |e| match e.tag {
            USER_OBJ => Some((&mut e.perm, 6)),
            OTHER => Some((&mut e.perm, 0)),
            tag if tag == group => Some((&mut e.perm, 3)),
            _ => None,
        })
    }

    /// The nine permission bits that a mode has beside this list.
    pub fn mode(&self) -> u32 {
        self.clone().classes().map(|(perm, shift)| u32::from(*perm) << shift).sum()
    }

    /// Makes the list agree with a mode.
    pub fn set_mode(&mut self, mode: u32) {
        self.classes().for_each(|(perm, shift)| *perm = (mode >> shift) as u16 & RWX);
    }

    /// Of a directory's default list: the list of what is made there with this mode, which no umask
    /// applies to, and the mode that it has then.
    pub fn inherit(&self, mode: u32) -> (Self, u32) {
        let mut acl = self.clone();
        acl.classes().for_each(|(perm, shift)| *perm &= (mode >> shift) as u16 & RWX);
        let mode = mode & !0o777 | acl.mode();
        (acl, mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }).collect())
    }

    /// u::rwx, u:1000:rw, g::r-x, m::rwx, o::---
    fn sample() -> Acl {
        acl(&[
            (USER_OBJ, 7, !0),
            (USER, 6, 1000),
            (GROUP_OBJ, 5, !0),
            (MASK, 7, !0),
            (OTHER, 0, !0),
        ])
    }

    #[test]
    fn golden_bytes_come_back() {
        let bytes = sample().encode();
        let hex = crate::store::tests::hex(&bytes);
        assert_eq!(
            hex,
            "02000000\
             01000700ffffffff02000600e803000004000500ffffffff10000700ffffffff20000000ffffffff"
        );
        assert_eq!(Acl::decode(&bytes), Some(sample()));
        for cut in 0..bytes.len() {
            assert_eq!(Acl::decode(&bytes[..cut]), None);
        }
    }

    #[test]
    fn incomplete_lists_are_refused() {
        for missing in 0..5 {
            let mut one = sample();
            one.0.remove(missing);
            // Only the named user may be missing.
            assert_eq!(Acl::decode(&one.encode()).is_some(), missing == 1);
        }
        for (tag, perm) in [(0x40, 0), (USER, 8), (OTHER, 0)] {
            let mut one = sample();
            one.0.push(Entry { tag, perm, id: 0 });
            assert_eq!(Acl::decode(&one.encode()), None);
        }
    }

    #[test]
    fn list_and_mode_agree() {
        let mut one = sample();
        assert_eq!((one.mode(), one.is_minimal()), (0o770, false));
        one.set_mode(0o100640);
        assert_eq!(one.mode(), 0o640);
        // The mask was set, not the group's own entry.
        assert_eq!(one.0[2].perm, 5);
        assert_eq!((one.0[0].perm, one.0[3].perm, one.0[4].perm), (6, 4, 0));
        let minimal = acl(&[(USER_OBJ, 6, !0), (GROUP_OBJ, 4, !0), (OTHER, 4, !0)]);
        assert_eq!((minimal.mode(), minimal.is_minimal()), (0o644, true));
    }

    #[test]
    fn what_is_made_gets_no_more_than_it_asked_for() {
        let (one, mode) = sample().inherit(0o100666);
        assert_eq!(mode, 0o100660);
        assert_eq!(one.mode(), 0o660);
        assert_eq!((one.0[1].perm, one.0[2].perm), (6, 5));
    }
}
