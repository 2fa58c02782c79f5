//! The program, run as a user runs it.

// Each test takes what it needs.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

pub const LMFS: &str = env!("CARGO_BIN_EXE_lmfs");

/// Runs it with nothing on its standard input, for two minutes at most.
pub fn lmfs<S: AsRef<OsStr>>(args: &[S]) -> Output {
    let mut c = Command::new("timeout");
    let out = c.args(["-k", "1", "120", LMFS]).args(args).stdin(Stdio::null()).output().unwrap();
    assert_ne!(out.status.code(), Some(124), "{:?} hangs", shown(args));
    out
}

fn shown<S: AsRef<OsStr>>(args: &[S]) -> Vec<String> {
    args.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect()
}

/// What it said on standard error.
pub fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Runs it, as it must succeed; what it answered.
pub fn answer<S: AsRef<OsStr>>(args: &[S]) -> Vec<u8> {
    let out = lmfs(args);
    assert!(out.status.success(), "{:?}: {:?} {}", shown(args), out.status, said(&out));
    out.stdout
}

/// The same, where the answer is text.
pub fn works<S: AsRef<OsStr>>(args: &[S]) -> String {
    String::from_utf8_lossy(&answer(args)).into_owned()
}

/// The one document on standard output.
pub fn json<S: AsRef<OsStr>>(args: &[S]) -> serde_json::Value {
    serde_json::from_slice(&answer(args)).unwrap()
}

/// True where stores can be mounted.
pub fn has_fuse() -> bool {
    let there = Path::new("/dev/fuse").exists();
    if !there {
        println!("skipped: /dev/fuse is missing");
    }
    there
}
