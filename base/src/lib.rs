//! The default language model of lmfs. See `docs/base-model.md` of lmfs for what is in it.

/// Its canonical file, as `docs/format.md` of lmfs specifies it.
pub static MODEL: &[u8] = include_bytes!("../base.lmfsmodel");
