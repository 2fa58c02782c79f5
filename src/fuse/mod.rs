//! The only room that knows fuser.
